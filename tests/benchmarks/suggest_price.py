"""Milliseconds of k drafts of 10 tokens, by each way and by each kind of branches, beside one greedy pass.

python tests/benchmarks/suggest_price.py BUNDLE... [--ways branch,beam] [--kinds tree,batch,forks] [--rounds 5]
    [--ngrams STORE] [--threads N]

All columns of a row are timed in turn, behind a text of random tokens that is cached but for its last; the median
counts, and in brackets its multiple of the greedy pass. `forks` are timed up to three drafts. `--ngrams`: a store for
superposed drafts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

import skipstone
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Branches, Draft, Sequence
from skipstone.runtime.engine.branches import TreeBranches
from skipstone.runtime.engine.copied_branches import BatchedBranches, ForkedBranches
from skipstone.runtime.suggest import suggest
from skipstone.runtime.suggest.ways import WAYS

NUM_TOKENS, CONTEXTS, NUM_DRAFTS = 10, (100, 500), (1, 2, 3, 5, 8)
MOST_FORKS = 3
KINDS: dict[str, Callable[[Sequence, int], Branches]] = {
    "tree": lambda sequence, most: TreeBranches(sequence, read(sequence)),
    "batch": lambda sequence, most: BatchedBranches(sequence, read(sequence), most=most, steps=NUM_TOKENS - 1),
    "forks": lambda sequence, most: ForkedBranches(sequence, read(sequence)),
}


def read(sequence: Sequence) -> np.ndarray:
    return sequence.extend(Draft.empty()).copy()


def branches_of(kind: str, sequence: Sequence, num_drafts: int) -> None:
    """Continue the best first tokens greedily."""
    branches = KINDS[kind](sequence, num_drafts)
    token_ids = np.argsort(-branches.logits[0])[:num_drafts].tolist()
    branches.reorder([0] * num_drafts)
    for _ in range(NUM_TOKENS - 1):
        token_ids = branches.step(token_ids).argmax(axis=1).tolist()


def greedy(sequence: Sequence) -> None:
    for _ in range(NUM_TOKENS):
        sequence.commit([int(sequence.extend(Draft.empty())[0].argmax())])


def jobs(
    model: LanguageModel, sequence: Sequence, num_drafts: int, ways: list[str], kinds: list[str], ngrams: str | None
) -> dict[str, Callable[[], object]]:
    request = model.suggest_request(num_drafts=num_drafts, max_new_tokens=NUM_TOKENS, ngrams=ngrams)
    found: dict[str, Callable[[], object]] = {"greedy": lambda: greedy(sequence)}
    for kind in kinds:
        if kind != "forks" or num_drafts <= MOST_FORKS:
            found[kind] = lambda kind=kind: branches_of(kind, sequence, num_drafts)
    return found | {way: lambda way=way: suggest(sequence, request, method=way) for way in ways}


def medians(sequence: Sequence, found: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return milliseconds of each job; a first round is not counted, as it binds the calls."""
    length = len(sequence.token_ids)
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds + 1):
        for name, job in found.items():
            start = perf_counter()
            job()
            times[name].append((perf_counter() - start) * 1e3)
            sequence.rollback(length)
    return {name: median(values[1:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--ways", default=",".join(name for name in WAYS if name != "auto"))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ngrams", metavar="STORE")
    parser.add_argument("--threads", type=int, metavar="N")
    chosen = parser.parse_args()
    ways, kinds = [chosen.ways.split(",") if chosen.ways else [], chosen.kinds.split(",") if chosen.kinds else []]
    columns = ["greedy", *kinds, *ways]
    print("| model | context | k |", " | ".join(columns), "|")
    print("|---|---|---|" + "---|" * len(columns))
    for name in chosen.bundles:
        model = skipstone.load(name, threads=chosen.threads)
        vocab_size = model.runtime.manifest.dimensions.vocab_size
        for context in CONTEXTS:
            sequence = model.runtime.new_sequence(context_length=context + NUM_TOKENS * max(NUM_DRAFTS))
            sequence.append(np.random.default_rng(0).integers(3, vocab_size, context).tolist())
            for num_drafts in NUM_DRAFTS:
                ms = medians(sequence, jobs(model, sequence, num_drafts, ways, kinds, chosen.ngrams), chosen.rounds)
                cells = [f"{ms[c]:.1f} ({ms[c] / ms['greedy']:.2f})" if c in ms else "-" for c in columns]
                print(f"| {name.rstrip('/').split('/')[-1]} | {context} | {num_drafts} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
