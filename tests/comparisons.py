"""A comparison of methods as it was measured once."""

from __future__ import annotations

from dataclasses import replace

from skipstone.bench import Comparison, Run

RUN = Run(
    round=1,
    category="easy",
    prompt="one",
    method="plain",
    prompt_tokens=5,
    tokens_per_s=100.0,
    model_calls=8,
    drafted=0,
    accepted=0,
    same_text=True,
    peak_memory_bytes=None,
)


COMPARISON = Comparison(
    bundle="folder/bundle",
    precision="int4",
    device="cpu",
    threads=2,
    runtime="onnxruntime 1",
    suite="made up",
    new_tokens=8,
    rounds=1,
    methods=("plain", "ngram"),
    categories=("easy", "hard"),
    adversarial=("hard",),
    process_peak_memory_bytes=10**8,
    command="skipstone bench",
    runs=(),
)


def runs_of(speeds: dict[tuple[int, str, str, str], float]) -> tuple[Run, ...]:
    """Return runs for speeds by round, category, prompt and method."""
    return tuple(
        replace(RUN, round=number, category=category, prompt=prompt, method=method, tokens_per_s=speed)
        for (number, category, prompt, method), speed in speeds.items()
    )
