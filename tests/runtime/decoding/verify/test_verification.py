"""The rules, proved: over every draft and every coin, the emitted tokens follow the model's law up to rounding."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from wrong_rules import make_mistake

from skipstone.errors import ConfigError
from skipstone.runtime.decoding.verify import (
    Coins,
    Judge,
    Law,
    TargetLaw,
    excess,
    judge_chain,
    judge_drawn,
    judge_draws,
    judge_tree,
    k_seq,
    match,
    reject,
    rule_named,
    selection,
)
from skipstone.runtime.engine import Draft
from skipstone.runtime.sampling import Sampler

VOCAB_SIZE = 3
EXACT = 1e-12
Path = tuple[int, ...]


class ScriptedCoins:
    """Coins that fall as told, then take the first outcome; they note how likely that was and what else could be."""

    def __init__(self, script: tuple[int, ...]) -> None:
        self.script, self.taken = script, ()
        self.chance, self.untaken = 1.0, []

    def flip(self, chance: float) -> bool:
        return self.take([True, False], [min(chance, 1.0), max(1.0 - chance, 0.0)])

    def draw(self, law: Law) -> int:
        return self.take(range(len(law)), (law / law.sum()).tolist())

    def take(self, outcomes: Any, chances: list[float]) -> Any:
        possible = [index for index, chance in enumerate(chances) if chance > 0]
        if len(self.taken) < len(self.script):
            index = self.script[len(self.taken)]
        else:
            index = possible[0]
            self.untaken += [(*self.taken, other) for other in possible[1:]]
        self.taken += (index,)
        self.chance *= chances[index]
        return outcomes[index]


def every_outcome(experiment: Callable[[Any], Any]) -> Iterator[tuple[float, Any]]:
    """All results that the experiment can have, each with its probability."""
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        coins = ScriptedCoins(scripts.pop())
        result = experiment(coins)
        scripts += coins.untaken
        yield coins.chance, result


@functools.cache
def law_after(seed: int, path: Path) -> Law:
    """A random law for each path; a third of them leave a token out, as truncation does."""
    random = np.random.default_rng((seed, len(path), *path))
    law = random.dirichlet(np.ones(VOCAB_SIZE))
    if random.random() < 1 / 3:
        law[random.integers(VOCAB_SIZE)] = 0
    return law / law.sum()


def target_of(seed: int) -> TargetLaw:
    return lambda row, path: law_after(seed, tuple(path))


@functools.cache
def joint_law(seed: int, path: Path, length: int) -> NDArray[np.float64]:
    """The law of the next `length` tokens after a path, [V] * length."""
    if length == 0:
        return np.array(1.0)
    law = law_after(seed, path)
    return np.stack([law[token] * joint_law(seed, (*path, token), length - 1) for token in range(VOCAB_SIZE)])


def emitted_law(experiment: Callable[[Any], list[int]], seed: int, length: int) -> NDArray[np.float64]:
    """The law of the first `length` tokens, when the model goes on alone after what one round emitted."""
    law = np.zeros((VOCAB_SIZE,) * length)
    for probability, token_ids in every_outcome(experiment):
        path = tuple(token_ids)
        law[path[:length]] += probability * joint_law(seed, path, max(length - len(path), 0))
    return law


def error_of(draw: Callable[[Any, int], Draft], judge: Judge, seed: int, length: int) -> float:
    """How far the emitted law is from the model's, when drafts are drawn from the laws of seed + 1000."""
    target = target_of(seed)
    law = emitted_law(lambda coins: judge(draw(coins, seed + 1000), target, coins), seed, length)
    return float(np.abs(law - joint_law(seed, (), length)).max())


def chain_drafter(length: int, *, goes_on: Callable[[int], bool] = lambda guess: True) -> Callable[[Any, int], Draft]:
    """Draws a chain, no further than a guess after which it does not go on."""

    def draw(coins: Any, seed: int) -> Draft:
        path: Path = ()
        laws: list[Law] = []
        while len(path) < length and (not path or goes_on(path[-1])):
            laws.append(law_after(seed, path))
            path += (coins.draw(laws[-1]),)
        return Draft(path, "drawn", tuple(range(len(path))), laws=(*laws, None))

    return draw


def tree_drafter(
    *branching: int, another: Callable[[Path], bool] = lambda siblings: True
) -> Callable[[Any, int], Draft]:
    """Draws so many children per depth without replacement, while the law and `another` of those drawn allow it."""

    def draw(coins: Any, seed: int) -> Draft:
        paths, parents, laws = [()], [], []
        for row in itertools.count():
            if row == len(paths):
                break
            depth = len(paths[row])
            drawn: Path = ()
            law = law_after(seed, paths[row])
            rest = law.copy()
            while depth < len(branching) and len(drawn) < branching[depth] and rest.any() and another(drawn):
                drawn += (coins.draw(rest),)
                rest[drawn[-1]] = 0
                paths.append((*paths[row], drawn[-1]))
                parents.append(row)
            laws.append(law if drawn else None)
        return Draft(tuple(path[-1] for path in paths[1:]), "drawn", tuple(parents), laws=tuple(laws))

    return draw


def k_chains_drafter(k: int, length: int, *, repeats: bool = True) -> Callable[[Any, int], Draft]:
    """Draws k chains and merges them; without `repeats` it forgets which guesses were drawn twice."""

    def draw(coins: Any, seed: int) -> Draft:
        rows, draws = {(): 0}, {0: []}
        for _ in range(k):
            path: Path = ()
            for _ in range(length):
                parent, path = rows[path], (*path, coins.draw(law_after(seed, path)))
                row = rows.setdefault(path, len(rows))
                draws.setdefault(row, [])
                if repeats or row not in draws[parent]:
                    draws[parent].append(row)
        paths = list(rows)
        laws = [law_after(seed, path) if draws[row] else None for path, row in rows.items()]
        return Draft(
            tuple(path[-1] for path in paths[1:]),
            "drawn",
            tuple(rows[path[:-1]] for path in paths[1:]),
            laws=tuple(laws),
            draws=tuple(tuple(draws[row]) for row in range(len(paths))),
        )

    return draw


SEEDS = range(8)


# Exact enumeration


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_chain_keeps_the_joint_law(length: int) -> None:
    assert max(error_of(chain_drafter(length), judge_chain, seed, length + 1) for seed in SEEDS) < EXACT


def test_a_chain_may_end_after_a_guess_that_its_drafter_distrusts() -> None:
    drafter = chain_drafter(3, goes_on=lambda guess: guess != 1)
    assert max(error_of(drafter, judge_chain, seed, 4) for seed in SEEDS) < EXACT


@pytest.mark.parametrize("branching", [(2,), (3,), (2, 1), (1, 2), (2, 2), (3, 1)])
def test_a_tree_keeps_the_joint_law(branching: tuple[int, ...]) -> None:
    length = len(branching) + 1
    assert max(error_of(tree_drafter(*branching), judge_tree, seed, length) for seed in SEEDS) < EXACT


def test_whether_another_sibling_is_drawn_may_depend_on_those_before_it() -> None:
    drafter = tree_drafter(3, 1, another=lambda siblings: 2 not in siblings)
    assert max(error_of(drafter, judge_tree, seed, 3) for seed in SEEDS) < EXACT


@pytest.mark.parametrize(("k", "length"), [(1, 2), (2, 1), (3, 1), (4, 1), (2, 2)])
def test_k_chains_keep_the_joint_law(k: int, length: int) -> None:
    assert max(error_of(k_chains_drafter(k, length), judge_draws, seed, length + 1) for seed in SEEDS) < EXACT


def test_a_guess_that_its_drafter_takes_back_changes_the_law() -> None:
    def choosy(coins: Any, seed: int) -> Draft:
        draft = chain_drafter(1)(coins, seed)
        return draft.keep([]) if draft.token_ids == (1,) else draft

    assert max(error_of(choosy, judge_chain, seed, 2) for seed in SEEDS) > 0.01


@pytest.mark.parametrize("anew", [True, False])
def test_the_next_round_needs_draws_of_its_own(anew: bool) -> None:
    """A drafter whose law does not depend on the path draws the second token once, or once in each round."""

    def error(seed: int) -> float:
        target, q = target_of(seed), law_after(seed + 1000, ())

        def two_rounds(coins: Any) -> list[int]:
            first, second = coins.draw(q), coins.draw(q)
            draft = Draft((first, second), "drawn", (0, 1), laws=(q, q, None))
            emitted = judge_chain(draft, target, coins)
            if len(emitted) > 1:
                return emitted
            draft = Draft((coins.draw(q) if anew else second,), "drawn", (0,), laws=(q, None))
            return emitted + judge_chain(draft, lambda row, path: target(row, [*emitted, *path]), coins)

        return float(np.abs(emitted_law(two_rounds, seed, 3) - joint_law(seed, (), 3)).max())

    worst = max(error(seed) for seed in SEEDS)
    assert worst < EXACT if anew else worst > 0.01


def test_a_tree_may_grow_by_what_was_drawn_but_may_not_turn_from_a_chain_by_it() -> None:
    def growing(coins: Any, seed: int) -> Draft:
        """A guess and its child; a sibling of the guess only when the child is token 0."""
        first = law_after(seed, ())
        guess = coins.draw(first)
        second = law_after(seed, (guess,))
        child = coins.draw(second)
        rest = first.copy()
        rest[guess] = 0
        if child != 0 or not rest.any():
            return Draft((guess, child), "growing", (0, 1), laws=(first, second, None))
        return Draft((guess, child, coins.draw(rest)), "growing", (0, 1, 0), laws=(first, second, None, None))

    assert max(error_of(growing, judge_tree, seed, 3) for seed in SEEDS) < EXACT
    assert max(error_of(growing, judge_drawn, seed, 3) for seed in SEEDS) > 0.01


def test_a_rule_that_draws_from_the_model_after_a_rejection_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    make_mistake(monkeypatch, "draws from the model after a rejection")
    assert max(error_of(chain_drafter(2), judge_chain, seed, 3) for seed in SEEDS) > 0.01
    assert max(error_of(tree_drafter(2), judge_tree, seed, 2) for seed in SEEDS) > 0.01
    assert max(error_of(k_chains_drafter(2, 1), judge_draws, seed, 2) for seed in SEEDS) > 0.01


def test_a_rule_that_keeps_the_law_of_a_rejected_sibling_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    make_mistake(monkeypatch, "keeps the law of a rejected sibling")
    assert max(error_of(tree_drafter(2), judge_tree, seed, 2) for seed in SEEDS) > 0.01


def test_forgetting_how_often_a_guess_was_drawn_is_seen() -> None:
    drafter = k_chains_drafter(3, 1, repeats=False)
    assert max(error_of(drafter, judge_draws, seed, 2) for seed in SEEDS) > 0.01


def test_the_best_guesses_are_no_drawn_guesses() -> None:
    def best(coins: Any, seed: int) -> Draft:
        law = law_after(seed, ())
        ids = np.argsort(-law)[:2]
        return Draft(tuple(ids.tolist()), "best", (0, 0), laws=(law, None, None))

    assert max(error_of(best, judge_tree, seed, 2) for seed in SEEDS) > 0.01


# How much is accepted


def mean_emitted(draw: Callable[[Any, int], Draft], judge: Judge, seed: int) -> float:
    target = target_of(seed)
    outcomes = every_outcome(lambda coins: judge(draw(coins, seed + 1000), target, coins))
    return sum(probability * len(token_ids) for probability, token_ids in outcomes)


def test_judging_a_chain_as_a_whole_accepts_no_less_than_guess_by_guess_and_mostly_more() -> None:
    pairs = [[mean_emitted(chain_drafter(3), judge, seed) for judge in (judge_chain, judge_tree)] for seed in SEEDS]
    assert all(whole > single - EXACT for whole, single in pairs)
    assert sum(whole > single + 0.001 for whole, single in pairs) > len(pairs) / 2


def test_a_second_sibling_or_chain_accepts_more() -> None:
    for seed in SEEDS:
        single = mean_emitted(tree_drafter(1), judge_tree, seed)
        assert mean_emitted(tree_drafter(2), judge_tree, seed) > single - EXACT
        assert mean_emitted(k_chains_drafter(2, 1), judge_draws, seed) > single - 1e-8


def test_one_chain_is_taken_as_often_by_k_seq_as_guess_by_guess() -> None:
    for seed in SEEDS:
        single = mean_emitted(tree_drafter(1, 1), judge_tree, seed)
        assert mean_emitted(k_chains_drafter(1, 2), judge_draws, seed) == pytest.approx(single, abs=EXACT)


DRAFTERS: list[tuple[Callable[[Any, int], Draft], Judge]] = [
    (chain_drafter(2), judge_chain),
    (tree_drafter(2, 2), judge_tree),
    (k_chains_drafter(2, 2), judge_draws),
]


@pytest.mark.parametrize(("draw", "judge"), DRAFTERS)
def test_guesses_drawn_from_the_models_own_law_all_stand(draw: Callable[[Any, int], Draft], judge: Judge) -> None:
    for seed in SEEDS:
        target = target_of(seed)
        outcomes = every_outcome(lambda coins, target=target, seed=seed: judge(draw(coins, seed), target, coins))
        fewer = sum(probability for probability, token_ids in outcomes if len(token_ids) < 3)
        assert fewer < 1e-8


@pytest.mark.parametrize(("draw", "judge"), DRAFTERS)
def test_guesses_that_the_model_would_never_draw_never_stand(draw: Callable[[Any, int], Draft], judge: Judge) -> None:
    def target(row: int, path: Any) -> Law:
        assert not path
        return np.array([0.0, 0.0, 0.0, 0.25, 0.75])

    def wider(coins: Any) -> Draft:
        draft = draw(coins, 0)
        laws = tuple(None if law is None else np.append(law, [0.0, 0.0]) for law in draft.laws)
        return Draft(draft.token_ids, draft.source, draft.parents, laws=laws, draws=draft.draws)

    chances = np.zeros(5)
    for probability, token_ids in every_outcome(lambda coins: judge(wider(coins), target, coins)):
        assert len(token_ids) == 1
        chances[token_ids[0]] += probability
    np.testing.assert_allclose(chances, [0, 0, 0, 0.25, 0.75], atol=EXACT)


# Single steps

laws = st.lists(st.sampled_from([0.0, 1e-300, 1e-17, 0.1, 0.5, 1.0]), min_size=4, max_size=4).filter(
    lambda weights: sum(weights) > 1e-9
)


@given(p=laws, q=laws)
def test_what_is_left_is_always_a_law(p: list[float], q: list[float]) -> None:
    p_law, q_law = np.array(p) / sum(p), np.array(q) / sum(q)
    left = excess(p_law, q_law)
    assert left.sum() == pytest.approx(1)
    assert ((left >= 0) & ((left == 0) | (p_law > 0))).all()


def test_equal_laws_leave_the_model_its_own() -> None:
    law = np.array([0.25, 0.75])
    np.testing.assert_array_equal(excess(law, law), law)


@given(p=laws, q=laws, k=st.integers(1, 6))
@settings(deadline=None)
def test_k_seq_takes_what_it_may_and_its_residual_fills_the_rest(p: list[float], q: list[float], k: int) -> None:
    p_law, q_law = np.array(p) / sum(p), np.array(q) / sum(q)
    rho, residual = selection(p_law, q_law, k)
    taken = np.minimum(q_law, p_law / rho)
    beta = min(taken.sum(), 1.0)
    tries = sum((1 - beta) ** before for before in range(k))
    assert 1 <= rho <= k
    assert tries <= rho * (1 + EXACT)
    assert tries == pytest.approx(rho, rel=1e-6) or beta == 0
    np.testing.assert_allclose(taken * tries + (1 - beta * tries) * residual, p_law, atol=1e-8)


def test_a_law_that_has_underflowed_is_used_up() -> None:
    """Where q has all its mass on one token, a sibling drawn from the rest has a chance of 0 in float64."""
    laws = (np.array([1.0, 0.0, 1e-320]), None, None, None)
    draft = Draft((0, 1, 2), "drawn", (0, 0, 0), laws=laws)
    p = np.array([0.0, 0.5, 0.5])
    outcomes = every_outcome(lambda coins: judge_tree(draft, lambda row, path: p, coins))
    assert sorted(outcomes) == [(0.5, [1]), (0.5, [2])]


def test_a_processor_is_not_asked_what_follows_a_banned_guess() -> None:
    def target(row: int, path: Any) -> Law:
        assert 1 not in path
        return np.array([0.5, 0.0, 0.5])

    q = np.array([0.25, 0.5, 0.25])
    draft = Draft((0, 1, 0, 0), "drawn", (0, 1, 2, 3), laws=(q, q, q, q, None))
    lengths = {len(token_ids) for _, token_ids in every_outcome(lambda coins: judge_drawn(draft, target, coins))}
    assert max(lengths) == 2


def test_coins_follow_the_chance_and_the_law_and_never_take_the_impossible() -> None:
    coins = Coins(3, 7)
    flips = [coins.flip(0.3) for _ in range(10_000)]
    assert abs(np.mean(flips) - 0.3) < 4 * np.sqrt(0.21 / 10_000)
    law = np.array([0.0, 0.2, 0.0, 0.8, 0.0])
    counts = np.bincount([coins.draw(law) for _ in range(10_000)], minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert abs(counts[1] / 10_000 - 0.2) < 4 * np.sqrt(0.16 / 10_000)
    assert not any(coins.flip(0.0) for _ in range(100)) and all(coins.flip(1.0) for _ in range(100))


# The rules as decoding calls them

LOGITS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]], dtype=np.float32))
Q = np.array([0.2, 0.2, 0.6])


@pytest.mark.parametrize("name", ["match", "rejection", "k-seq"])
def test_a_draft_without_laws_is_verified_by_matching(name: str) -> None:
    draft = Draft((0, 2), "table", (0, 0))
    for seed in range(50):
        sampler = Sampler(seed=seed)
        wanted = match(sampler, [1, 2])(draft, LOGITS)
        assert rule_named(name, sampler, [1, 2])(draft, LOGITS) == wanted
        assert rule_named(name, sampler, [1, 2])(Draft.empty(), LOGITS) == wanted[:1]


@pytest.mark.parametrize("rule", [reject, k_seq])
def test_a_seed_gives_the_same_tokens_again_and_seeds_and_positions_differ(rule: Any) -> None:
    draft = Draft((2, 0), "drawn", (0, 1), laws=(Q, Q, None), draws=((1,), (2,), ()) if rule is k_seq else ())

    def tokens(seed: int, history: list[int]) -> list[int]:
        return rule(Sampler(seed=seed), history)(draft, LOGITS)

    assert [tokens(seed, [1]) for seed in range(50)] == [tokens(seed, [1]) for seed in range(50)]
    assert len({tuple(tokens(seed, [1])) for seed in range(50)}) > 2
    assert len({tuple(tokens(0, [1] * length)) for length in range(1, 50)}) > 2


def test_an_unknown_rule_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="rule 'typical' is not known; known are match, rejection, k-seq"):
        rule_named("typical", Sampler(), [])


def test_a_draft_with_replacement_is_refused_by_rejection() -> None:
    draft = Draft((2,), "pairs", (0,), laws=(Q, None), draws=((1, 1), ()))
    with pytest.raises(ConfigError, match=r"pairs draws with replacement, .* choose k-seq"):
        reject(Sampler(), [1])(draft, LOGITS)


def test_a_draft_without_draws_is_refused_by_k_seq() -> None:
    draft = Draft((2,), "single", (0,), laws=(Q, None))
    with pytest.raises(ConfigError, match="single names the draws of 0 rows, where k-seq needs those of all 2"):
        k_seq(Sampler(), [1])(draft, LOGITS)


@pytest.mark.parametrize("parents", [(0, 1), (0, 0)])
@pytest.mark.parametrize(
    ("law", "found"), [(None, "no law"), (np.ones(4) / 4, r"a law of shape \(4,\)")], ids=["none", "wider"]
)
def test_a_missing_or_foreign_law_is_refused(parents: tuple[int, int], law: Any, found: str) -> None:
    draft = Draft((2, 1), "odd", parents, laws=(law, law, None))
    with pytest.raises(ConfigError, match=f"odd gives {found} for the guesses after row 0, where one over 3 tokens"):
        reject(Sampler(), [1])(draft, LOGITS)
