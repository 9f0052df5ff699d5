"""Tokens per second of plain decoding and of prompts on several devices, in turn; and the contract on real bundles.

python tests/benchmarks/device_speeds.py BUNDLE DEVICES [RUNS]          DEVICES are names apart by commas
python tests/benchmarks/device_speeds.py --contract DEVICE FP32 INT4    two bundles of one model

The logits are compared along the text that the first device writes. All in one process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from skipstone import LanguageModel, load
from skipstone.check import ContractBundles, check_clauses
from skipstone.devices import open_device
from skipstone.evaluate import divergences, log_softmax
from skipstone.runtime.engine import Draft

PROMPT = "Explain in a few sentences why the sky is blue, and why it is red in the evening.\n" * 4
NEW_TOKENS = 96


def main() -> None:
    if sys.argv[1] == "--contract":
        device, numbers, int4 = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
        bundles = ContractBundles(numbers=numbers, int4=int4, numbers_of_processor=numbers, int4_of_processor=int4)
        for clause in check_clauses(open_device(device), bundles):
            print(f"{clause.name:10}  {clause.verdict:7}  {clause.reason}", flush=True)
        return
    bundle, names, *rest = sys.argv[1:]
    models = {name: load(bundle, device=name) for name in names.split(",")}
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for run in range(1 + (int(rest[0]) if rest else 5)):
        for name, model in models.items():
            stats = model.generate(PROMPT, decode="plain", max_new_tokens=NEW_TOKENS).stats
            if run:  # the first binds calls
                speeds[name].append((stats.decode_tokens_per_s, stats.prefill_tokens_per_s))
    first = next(iter(models.values()))
    made = first.generate(PROMPT, decode="plain", max_new_tokens=NEW_TOKENS).token_ids
    laws = {name: laws_along(model, made) for name, model in models.items()}
    wanted = next(iter(laws.values()))
    for name, pairs in speeds.items():
        decode, prefill = (median(values) for values in zip(*pairs, strict=True))
        same = (laws[name].argmax(axis=1) == wanted.argmax(axis=1)).mean()
        nats = divergences(wanted, laws[name]).mean()
        speed = f"{decode:6.1f} tokens/s, prompt {prefill:6.1f} tokens/s"
        print(f"{name:12} {speed}, KL {nats:.1e}, {same:.1%} of choices kept")


def laws_along(model: LanguageModel, token_ids: Sequence[int]) -> np.ndarray:
    """Return log probabilities along a text behind the prompt, fed row by row."""
    sequence, rows = model.runtime.new_sequence(context_length=1024), []
    sequence.append(model.encode(PROMPT))
    for token_id in token_ids:
        rows.append(sequence.extend(Draft.empty())[0].copy())
        sequence.commit([token_id])
    return log_softmax(np.stack(rows))


if __name__ == "__main__":
    main()
