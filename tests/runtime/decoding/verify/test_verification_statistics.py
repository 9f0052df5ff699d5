"""The rules, run: the first three tokens of thousands of texts follow the model's joint law, unless the rule is wrong.

The model is a table of logits after each pair of tokens, so the law of plain decoding is known; everything else is the
real thing. Seeds are fixed. A right rule exceeds `FINE` for one set of seeds in a thousand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from wrong_rules import make_mistake

from skipstone.runtime.decoding import Accept, Drafter, Step, decode
from skipstone.runtime.decoding.verify import Law, rule_named
from skipstone.runtime.engine import Draft
from skipstone.runtime.sampling import Sampler, SamplingOptions, draft_seed, gumbel

# A drafter that fails would be left out with a warning, and its texts be those of plain decoding.
pytestmark = pytest.mark.filterwarnings("error")

VOCAB_SIZE = 6
PROMPT = [1, 4]
NUM_TEXTS = 2000
NUM_COMPARED = 3
# Long enough that the first rounds may draft all they want.
MAX_NEW_TOKENS = 16
# Quantiles of the normal distribution.
FINE, WRONG = 3.1, 6.0

_random = np.random.default_rng(5)
TARGET = (1.5 * _random.normal(size=(VOCAB_SIZE,) * 3)).astype(np.float32)
DRAFTS = (0.6 * TARGET + _random.normal(size=TARGET.shape)).astype(np.float32)

SAMPLED = SamplingOptions(temperature=1.0)
COLD = SamplingOptions(temperature=0.3)
SHARPER = SamplingOptions(temperature=0.8, top_p=0.9)
FLATTER = SamplingOptions(temperature=1.3, top_p=0.8)
# These look back at the whole text, so each row needs the path that leads to it.
PENALTIES = SamplingOptions(temperature=1.0, repetition_penalty=1.5, presence_penalty=0.5, no_repeat_ngram=2)

Rule = Callable[[Sampler, Sequence[int]], Accept]
MakeDrafter = Callable[[int], Drafter]


class TableSequence:
    """What `decode` needs of a sequence."""

    num_waiting, num_cached, num_peeked, draft_room = 1, 1, 0, 1000

    def __init__(self) -> None:
        self.token_ids = list(PROMPT)

    def require_room(self, num_tokens: int) -> None:
        """Any text fits."""

    def require_feedable(self, draft: Draft) -> None:
        """Any draft does."""

    def extend(self, draft: Draft) -> NDArray[np.float32]:
        self.draft, pairs = draft, [tuple(self.token_ids[-2:])]
        for parent, token_id in zip(draft.parents, draft.token_ids, strict=True):
            pairs.append((pairs[parent][1], token_id))
        return np.stack([TARGET[pair] for pair in pairs])

    def commit(self, token_ids: Sequence[int]) -> list[int]:
        self.token_ids += token_ids
        return self.draft.path(token_ids)


def sampler_of(options: SamplingOptions, seed: int) -> Sampler:
    return Sampler.from_options(replace(options, seed=seed), stop_ids=(), num_prompt_tokens=len(PROMPT))


# Drafters


@dataclass
class DrawnDrafter(Drafter):
    """Draws from laws [V, V, V] after each pair of tokens; `shape` says how many guesses follow a row, by depth."""

    laws: NDArray[np.float64]
    seed: int
    shape: tuple[int, ...]
    round_seed: Callable[[int, int], int] = draft_seed
    name: str = "drawn"

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        seed = self.round_seed(self.seed, len(history))
        rows, parents, laws = [(0, *history[-2:])], [], []  # depth and the last two tokens
        while len(laws) < len(rows):
            depth, before, last = rows[len(laws)]
            width = self.shape[depth] if depth < len(self.shape) else 0
            guesses = self.guesses(self.laws[before, last], seed, len(laws))[:width]
            rows += [(depth + 1, last, guess) for guess in guesses]
            parents += [len(laws)] * len(guesses)
            laws.append(self.laws[before, last] if guesses else None)
        draft = Draft(tuple(row[2] for row in rows[1:]), self.name, tuple(parents), laws=tuple(laws))
        return draft if len(draft) <= limit else Draft.empty()

    def guesses(self, law: Law, seed: int, row: int) -> list[int]:
        """All tokens that the law knows, as drawn one after the other."""
        ids = np.flatnonzero(law)
        drawn: list[int] = ids[np.argsort(-np.log(law[ids]) - gumbel(seed, row, ids))].tolist()
        return drawn


class BestDrafter(DrawnDrafter):
    """Takes the likeliest guesses, and gives the laws as if it had drawn them."""

    def guesses(self, law: Law, seed: int, row: int) -> list[int]:
        best: list[int] = np.argsort(-law).tolist()
        return best


@dataclass
class KChainsDrafter(Drafter):
    """Draws k chains of two guesses and merges them; without `repeats` it forgets what was drawn twice."""

    laws: NDArray[np.float64]
    seed: int
    k: int = 3
    repeats: bool = True
    name: str = "k-chains"

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        if limit < 2 * self.k:
            return Draft.empty()
        rows: dict[tuple[int, ...], int] = {(): 0}
        draws: dict[int, list[int]] = {}
        laws: dict[int, Law] = {}
        path: tuple[int, ...] = ()
        for draw in range(2 * self.k):
            path = path if draw % 2 else ()
            parent = rows[path]
            before, last = [*history, *path][-2:]
            laws[parent] = self.laws[before, last]
            ids = np.flatnonzero(laws[parent])
            noise = gumbel(draft_seed(self.seed, len(history)), draw, ids)
            path = (*path, int(ids[np.argmax(np.log(laws[parent][ids]) + noise)]))
            row = rows.setdefault(path, len(rows))
            if self.repeats or row not in draws.get(parent, []):
                draws.setdefault(parent, []).append(row)
        paths = list(rows)[1:]
        return Draft(
            tuple(path[-1] for path in paths),
            self.name,
            tuple(rows[path[:-1]] for path in paths),
            laws=tuple(laws.get(row) for row in range(len(rows))),
            draws=tuple(tuple(draws.get(row, ())) for row in range(len(rows))),
        )


class FixedDrafter(Drafter):
    """The same tree after every text, without laws: three guesses, two more after each."""

    name = "fixed"
    draft = Draft((0, 2, 4, 1, 2, 0, 5, 3, 4), "fixed", (0, 0, 0, 1, 1, 2, 2, 3, 3))

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        return self.draft if limit >= len(self.draft) else Draft.empty()


def draft_laws(options: SamplingOptions, table: NDArray[np.float32] = DRAFTS) -> NDArray[np.float64]:
    rows = [sampler_of(options, 0).law(row, ()) for row in table.reshape(-1, VOCAB_SIZE)]
    return np.stack(rows).reshape(table.shape)


def drawn(*shape: int, options: SamplingOptions = SAMPLED) -> MakeDrafter:
    laws = draft_laws(options)
    return lambda seed: DrawnDrafter(laws, seed, shape)


def k_chains(*, k: int = 3, repeats: bool = True, options: SamplingOptions = SAMPLED) -> MakeDrafter:
    laws = draft_laws(options)
    return lambda seed: KChainsDrafter(laws, seed, k=k, repeats=repeats)


# Texts and their law


def rule(name: str) -> Rule:
    return lambda sampler, history: rule_named(name, sampler, history)


def steps_of(sampler: Sampler, drafter: Drafter, verify: Rule) -> Iterator[Step]:
    sequence = TableSequence()
    accept = verify(sampler, sequence.token_ids)
    return decode(sequence, drafter=drafter, accept=accept, max_new_tokens=MAX_NEW_TOKENS, stop_ids=())


def beginning(steps: Iterator[Step]) -> tuple[int, ...]:
    """The first tokens of a text, from as many rounds as they take, each with a draft."""
    token_ids: list[int] = []
    while len(token_ids) < NUM_COMPARED:
        step = next(steps)
        assert step.num_drafted
        token_ids += step.token_ids
    return tuple(token_ids[:NUM_COMPARED])


def joint_law(sampler: Sampler, history: list[int], length: int) -> NDArray[np.float64]:
    """The law of the next tokens of plain decoding, [V] * length."""
    if length == 0:
        return np.array(1.0)
    law = sampler.law(TARGET[tuple(history[-2:])], history)
    return np.stack([law[token] * joint_law(sampler, [*history, token], length - 1) for token in range(VOCAB_SIZE)])


def quantile(statistic: float, num_free: int) -> float:
    """A chi-square statistic as a quantile of the normal distribution (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * num_free)
    return ((statistic / num_free) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def deviation(counts: Counter[tuple[int, ...]], law: NDArray[np.float64]) -> float:
    """How far the counts are from the law; cells where less than five are expected are counted together."""
    expected = law.ravel() * counts.total()
    seen = np.array([counts[token_ids] for token_ids in np.ndindex(law.shape)])
    if seen[expected == 0].any():
        return math.inf
    large = expected >= 5
    if expected[~large].any():
        expected = np.append(expected[large], expected[~large].sum())
        seen = np.append(seen[large], seen[~large].sum())
    else:
        expected, seen = expected[large], seen[large]
    return quantile(float(((seen - expected) ** 2 / expected).sum()), len(expected) - 1)


def deviation_of(verify: Rule, make_drafter: MakeDrafter, options: SamplingOptions = SAMPLED) -> float:
    """How far texts of many seeds are from the law of plain decoding."""
    counts = Counter(
        beginning(steps_of(sampler_of(options, seed), make_drafter(seed), verify)) for seed in range(NUM_TEXTS)
    )
    return deviation(counts, joint_law(sampler_of(options, 0), PROMPT, NUM_COMPARED))


# Right rules

TREE = (2, 2, 1)
CHAIN = (1, 1, 1)


@pytest.mark.parametrize("options", [SAMPLED, SHARPER, PENALTIES], ids=["sampled", "sharper", "penalties"])
def test_matching_keeps_the_joint_law(options: SamplingOptions) -> None:
    assert deviation_of(rule("match"), lambda seed: FixedDrafter(), options) < FINE


@pytest.mark.parametrize("shape", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize(
    ("options", "drafters"),
    [(SAMPLED, COLD), (SHARPER, FLATTER), (PENALTIES, SAMPLED)],
    ids=["sampled", "sharper", "penalties"],
)
def test_rejection_keeps_the_joint_law(
    shape: tuple[int, ...], options: SamplingOptions, drafters: SamplingOptions
) -> None:
    assert deviation_of(rule("rejection"), drawn(*shape, options=drafters), options) < FINE


@pytest.mark.parametrize(
    ("options", "drafters", "k"),
    [(SAMPLED, COLD, 6), (SHARPER, FLATTER, 3), (PENALTIES, SAMPLED, 3)],
    ids=["sampled", "sharper", "penalties"],
)
def test_k_seq_keeps_the_joint_law(options: SamplingOptions, drafters: SamplingOptions, k: int) -> None:
    assert deviation_of(rule("k-seq"), k_chains(k=k, options=drafters), options) < FINE


# Wrong rules, which the same test must see

LAWS = draft_laws(SAMPLED)


def second_chance(sampler: Sampler, history: Sequence[int]) -> Accept:
    """Draws again, as if nothing had been drawn, when the first draw is not a guess."""

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        token_id = sampler.choose(logits[0], history)
        if draft.child(0, token_id) is None:
            token_id = replace(sampler, seed=sampler.seed + 2**32).choose(logits[0], history)
        return [token_id]

    return accept


def is_seen(verify: Rule, make_drafter: MakeDrafter) -> bool:
    return deviation_of(verify, make_drafter) > WRONG


def test_drawing_again_after_a_draw_that_matches_nothing_is_seen() -> None:
    assert is_seen(second_chance, lambda seed: FixedDrafter())


@pytest.mark.parametrize("shape", [CHAIN, (2, 2)], ids=["chain", "tree"])
def test_judging_the_likeliest_guesses_as_if_they_were_drawn_is_seen(shape: tuple[int, ...]) -> None:
    assert is_seen(rule("rejection"), lambda seed: BestDrafter(LAWS, seed, shape))


@pytest.mark.parametrize(
    ("name", "make_drafter"),
    [("rejection", drawn(*CHAIN)), ("rejection", drawn(*TREE)), ("k-seq", k_chains())],
    ids=["chain", "tree", "k-seq"],
)
def test_drawing_from_the_model_instead_of_the_residual_is_seen(
    monkeypatch: pytest.MonkeyPatch, name: str, make_drafter: MakeDrafter
) -> None:
    make_mistake(monkeypatch, "draws from the model after a rejection")
    assert is_seen(rule(name), make_drafter)


def test_the_law_of_a_rejected_sibling_used_again_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    make_mistake(monkeypatch, "keeps the law of a rejected sibling")
    assert is_seen(rule("rejection"), drawn(3, 2, options=COLD))


def test_forgetting_how_often_a_guess_was_drawn_is_seen() -> None:
    assert is_seen(rule("k-seq"), k_chains(k=6, repeats=False, options=COLD))


def test_a_drafter_that_draws_with_the_same_noise_in_the_next_round_is_seen() -> None:
    def repeating(seed: int) -> Drafter:
        return DrawnDrafter(LAWS, seed, CHAIN, round_seed=lambda seed, position: draft_seed(seed, 0))

    assert is_seen(rule("rejection"), repeating)


def test_coins_that_fall_again_as_in_the_last_round_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    make_mistake(monkeypatch, "coins fall as in the last round")
    assert is_seen(rule("rejection"), drawn(*CHAIN, options=COLD))


# Equal texts

DRAFTERS = {
    "fixed": lambda seed: FixedDrafter(),
    "chain": drawn(*CHAIN),
    "tree": drawn(*TREE),
    "k chains": k_chains(),
}


def plain_text(sampler: Sampler) -> tuple[int, ...]:
    text = list(PROMPT)
    for _ in range(MAX_NEW_TOKENS):
        text.append(sampler.choose(TARGET[tuple(text[-2:])], text))
    return tuple(text[len(PROMPT) :])


def whole_text(sampler: Sampler, drafter: Drafter, verify: Rule) -> tuple[int, ...]:
    return tuple(token_id for step in steps_of(sampler, drafter, verify) for token_id in step.token_ids)


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("options", [SAMPLED, SHARPER, PENALTIES], ids=["sampled", "sharper", "penalties"])
def test_matching_gives_the_text_of_plain_decoding_for_every_seed(drafter: str, options: SamplingOptions) -> None:
    for seed in range(50):
        sampler = sampler_of(options, seed)
        assert whole_text(sampler, DRAFTERS[drafter](seed), rule("match")) == plain_text(sampler)


@pytest.mark.parametrize(
    ("name", "drafter"),
    [("rejection", "fixed"), ("rejection", "chain"), ("rejection", "tree"), ("k-seq", "fixed"), ("k-seq", "k chains")],
)
@pytest.mark.parametrize(
    "options", [SamplingOptions(), SamplingOptions(repetition_penalty=1.5)], ids=["greedy", "penalty"]
)
def test_greedy_text_is_the_same_with_every_rule(name: str, drafter: str, options: SamplingOptions) -> None:
    sampler = sampler_of(options, 0)
    for seed in range(50):
        drafter_of_seed = DRAFTERS[drafter](seed)
        assert whole_text(replace(sampler, seed=seed), drafter_of_seed, rule(name)) == plain_text(sampler)


@pytest.mark.parametrize(("name", "drafter"), [("rejection", "chain"), ("rejection", "tree"), ("k-seq", "k chains")])
def test_rules_that_know_the_laws_take_more_guesses_than_matching(name: str, drafter: str) -> None:
    def num_calls(verify: Rule) -> int:
        return sum(
            len(list(steps_of(sampler_of(SAMPLED, seed), DRAFTERS[drafter](seed), verify))) for seed in range(100)
        )

    assert num_calls(rule(name)) < 0.95 * num_calls(rule("match"))
