"""Whether a model still finds what a long text says once, with an int8 cache as with an fp32 one.

python tests/benchmarks/cache_needle.py BUNDLE [--tokens 500,1500,6000] [--keys 20] [--caches fp32,int8] [--seed 0]

A key is stated once, at another depth each time, in prose made from templates, and asked for at the end; the answers
are greedy. What counts is whether both caches give the same answer, right or not: a small model, or one far beyond the
lengths of its training, may not know. `margin` is the least lead of a chosen token over the next one, in logits: what
a rounded cache must not move by more.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import skipstone
from skipstone.runtime.engine import Draft, Model, Sequence

NAMES = ("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Henry", "Irene", "Jonas", "Klara", "Louis")
PLACES = ("the harbour", "the library", "the old mill", "the market", "the garden", "the station", "the bakery")
THINGS = ("a letter", "a lamp", "three apples", "an umbrella", "a map", "two books", "a wooden box", "some bread")
TIMES = ("In the morning", "After lunch", "Late in the evening", "On Monday", "When it rained", "The day before")
DEEDS = ("carried {thing} to {place}", "lost {thing} near {place}", "talked about {thing} at {place}")
WORDS = ("amber", "violet", "silver", "copper", "scarlet", "golden", "emerald", "ivory", "crimson", "indigo")
NEW_TOKENS = 12


def prose(rng: random.Random) -> Iterator[str]:
    """Yield sentences without end."""
    while True:
        deed = rng.choice(DEEDS).format(thing=rng.choice(THINGS), place=rng.choice(PLACES))
        first, second = rng.sample(NAMES, 2)
        yield f"{rng.choice(TIMES)} {first} {deed}, and {second} saw it."


@dataclass(frozen=True, slots=True)
class Needle:
    """A text that states a key once, and what it asks for at its end."""

    token_ids: list[int]
    key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says, and the least lead of a chosen token."""

    token_ids: tuple[int, ...]
    margin: float


def needles(model: Model, *, num_tokens: int, count: int, seed: int) -> list[Needle]:
    """Return texts of about so many tokens, their keys from the start to the end."""
    encode, rng = model.tokenizer.encode, random.Random(seed)
    made = []
    for number in range(count):
        key = f"{rng.choice(WORDS)} {rng.randint(1000, 9999)}"
        said = f" The password of the tower is {key}. Remember it."
        question = f" What is the password of the tower? The password of the tower is {key.split()[0]}"
        room = num_tokens - len(encode(said)) - len(encode(question))
        sentences, size, source = [], 0, prose(random.Random(seed + number))
        while size < room:
            sentences.append(next(source))
            size += len(encode(" " + sentences[-1], add_special_tokens=False))
        place = (number + 1) * len(sentences) // (count + 1)
        text = " ".join(sentences[:place]) + said + " " + " ".join(sentences[place:-1]) + question
        made.append(Needle(encode(text), key.split()[1]))
    return made


def answer(sequence: Sequence, needle: Needle) -> Answer:
    """Read a text and go on greedily."""
    sequence.hold(needle.token_ids)
    chosen, margins = [], []
    for _ in range(NEW_TOKENS):
        logits = sequence.extend(Draft.empty())[0]
        second, first = np.partition(logits, -2)[-2:]
        margins.append(float(first - second))
        chosen.append(int(np.argmax(logits)))
        sequence.commit(chosen[-1:])
    return Answer(tuple(chosen), min(margins))


def answers(bundle: str, cache: str, made: list[Needle]) -> list[Answer]:
    """Return what a type of cache makes of each text."""
    model = skipstone.load(bundle, cache=cache).runtime
    room = max(len(needle.token_ids) for needle in made) + NEW_TOKENS + 1
    sequence = model.new_sequence(context_length=min(room, model.manifest.context_length), exact=None)
    return [answer(sequence, needle) for needle in made]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--tokens", default="500,1500,6000")
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--caches", default="fp32,int8")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    caches = options.caches.split(",")
    model = skipstone.load(options.bundle).runtime
    print("| tokens | right by cache | same answers | same token for token | margin where not |\n|---|---|---|---|---|")
    for num_tokens in map(int, options.tokens.split(",")):
        made = needles(model, num_tokens=num_tokens, count=options.keys, seed=options.seed)
        said = [answers(options.bundle, cache, made) for cache in caches]
        texts = [[model.tokenizer.decode(list(one.token_ids)) for one in of_cache] for of_cache in said]
        right = [sum(needle.key in text for needle, text in zip(made, of_cache, strict=True)) for of_cache in texts]
        pairs = list(zip(*said, strict=True))
        keys = [{text.split(".")[0] for text in of_key} for of_key in zip(*texts, strict=True)]
        same = [len({one.token_ids for one in pair}) == 1 for pair in pairs]
        margins = ", ".join(f"{pair[0].margin:.2f}" for pair, is_same in zip(pairs, same, strict=True) if not is_same)
        told = ", ".join(f"{cache} {number}" for cache, number in zip(caches, right, strict=True))
        agreed = sum(len(of_key) == 1 for of_key in keys)
        print(
            f"| {num_tokens} | {told} | {agreed} of {len(keys)} | {sum(same)} of {len(same)} | {margins} |", flush=True
        )


if __name__ == "__main__":
    main()
