"""How far a model is linear in its input: cosines of the logits of a blend and the blend of the logits, step by step.

python tests/benchmarks/suggest_linearity.py pebble heldout.txt
python tests/benchmarks/suggest_linearity.py BUNDLE replies.jsonl --field reply --json

Behind each prefix stand the drafts of three branches, 10 tokens each. At each step the model reads one blend of their
tokens, each a third; beside it each draft is read alone. Logits are taken less their mean, which no choice depends on.
Superposed drafts rest on a cosine near 1. same first: the likeliest token is the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from suggest_quality import NEW, PREFIX, cases_of, texts_in

import skipstone
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Blends, Draft, Sequence
from skipstone.runtime.suggest import SuggestRequest, suggest

NUM_DRAFTS = 3


def rows_alone(sequence: Sequence, draft: tuple[int, ...]) -> np.ndarray:
    """Return the logits [NEW, V] behind each token of a draft."""
    length = len(sequence.token_ids)
    rows = sequence.extend(Draft.chain(draft, source="draft"))[1:].copy()
    sequence.rollback(length)
    return rows


def steps_of(model: LanguageModel, prefix: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine of each step [NEW], and whether the likeliest token is the same."""
    sequence = model.runtime.new_sequence(context_length=PREFIX + 10 * NEW)
    sequence.append(prefix)
    request = SuggestRequest(tokenizer=model.runtime.tokenizer, num_drafts=NUM_DRAFTS, max_new_tokens=NEW)
    drafts = [found.token_ids for found in suggest(sequence, request, method="branch")]
    mean = np.mean([rows_alone(sequence, draft) for draft in drafts], axis=0)
    sequence.extend(Draft.empty())
    columns = np.array(drafts).T
    blended = sequence.extend_by_blends(Blends.of(columns, np.full(columns.shape, 1 / NUM_DRAFTS)))
    one, other = (rows - rows.mean(axis=1, keepdims=True) for rows in (blended, mean))
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return cosines, one.argmax(axis=1) == other.argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--field", default="text")
    parser.add_argument("--prefixes", type=int, default=100)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    model = skipstone.load(chosen.bundle, threads=chosen.threads)
    cases = cases_of(model, texts_in(chosen.texts, chosen.field), chosen.prefixes)
    cosines, same = (
        np.mean(part, axis=0) for part in zip(*(steps_of(model, prefix) for prefix, _ in cases), strict=True)
    )
    if chosen.json:
        print(json.dumps({"cosines": cosines.tolist(), "same_first": same.tolist(), "prefixes": len(cases)}))
        return
    print("| step |", " | ".join(map(str, range(1, NEW + 1))), "|\n|---|" + "---|" * NEW)
    print("| cosine |", " | ".join(f"{value:.2f}" for value in cosines), "|")
    print("| same first |", " | ".join(f"{value:.0%}" for value in same), "|")


if __name__ == "__main__":
    main()
