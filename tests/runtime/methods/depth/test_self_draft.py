"""The drafter `self`: an exit of the model drafts for the model, and the text stays what it is.

The controllers run without a model: fake exits take the time that they are told, and every right token is 0.
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle
from decoding import OPTIONS, PROMPT, cached_rows, plain_text, sampler_for
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.costs import best_length, usual_s
from skipstone.runtime.decoding import ConfidenceScale, ConfidenceStop, Drafter, ModelDrafter, Round, Step, decode
from skipstone.runtime.decoding.verify import rule_named
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.methods import DrafterContext, method_named, weighed_methods
from skipstone.runtime.methods.depth import COUNTS_MEMORY, LONGEST, Counts, Exit, MidpointStop, SelfDrafter, open_self
from skipstone.runtime.sampling import Picks, SamplingOptions

NO_LOGITS = np.zeros((0, 0), np.float32)
# What the layers behind the second add to the hidden state, as a share of what random ones add.
LATE = {"random": 1.0, "nearly silent": 0.05, "silent": 0.0}


@pytest.fixture(scope="module")
def make_model(tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Open a tiny model with an exit after each layer, of which the third and fourth add less than they did."""
    from safetensors.torch import load_file, save_file

    def make(late: str, *, exits: str = "auto") -> Model:
        folder = tmp_path_factory.mktemp("late") / "checkpoint"
        shutil.copytree(tiny_checkpoint, folder)
        tensors = load_file(folder / "model.safetensors")
        for layer in (2, 3):
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                tensors[f"model.layers.{layer}.{name}.weight"] *= LATE[late]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return Model.open(make_bundle(folder, exits=exits))

    return make


@pytest.fixture(scope="module", params=list(LATE))
def staged(request: pytest.FixtureRequest, make_model: Any) -> Model:
    model: Model = make_model(request.param)
    return model


@pytest.fixture(scope="module")
def silent(make_model: Any) -> Model:
    """A model whose exit after the second layer gives what the whole model gives."""
    model: Model = make_model("silent")
    return model


def context_of(
    model: Model, options: SamplingOptions, *, rule: Any = "match", stop_ids: Collection[int] = (), **sequence: Any
) -> DrafterContext:
    context = DrafterContext(
        model=model, sampler=sampler_for(options, stop_ids), sequence=model.new_sequence(**sequence), rule=rule
    )
    context.sequence.append(PROMPT)
    return context


def run(
    context: DrafterContext,
    drafter: Drafter,
    *,
    max_new_tokens: int = 24,
    stop_ids: Collection[int] = (),
    look: Callable[[Sequence], None] = Sequence.check,
) -> tuple[list[int], list[Step]]:
    """Return the whole text and the steps; a drafter that fails and is left out is an error."""
    sequence, steps = context.sequence, []
    accept = rule_named(context.rule, context.sampler, sequence.token_ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=max_new_tokens, stop_ids=stop_ids):
            look(sequence)
            steps.append(step)
    return sequence.token_ids, steps


class Trust(ConfidenceScale):
    """Believes that every guess stands; random weights are never sure of one."""

    def chance(self, confidence: float) -> float:
        return 1.0


def trained(drafter: Drafter, *, num_stages: int = 2) -> SelfDrafter:
    """Return a drafter that trusts one of its exits fully, and knows all prices."""
    assert isinstance(drafter, SelfDrafter)
    drafter.plain_s = 1.0
    for number, one in enumerate(drafter.exits, start=1):
        one.text.guess_s = 0.05
        one.judge.stop, one.judge.scale = ConfidenceStop(threshold=0.0), Trust()
        one.counts = Counts(200.0, 0.0) if number == num_stages else Counts(0.0, 200.0)
    return drafter


# The text


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding_and_every_stage_caches_it(staged: Model, options: SamplingOptions) -> None:
    fresh = staged.new_sequence()

    def look(sequence: Sequence) -> None:
        sequence.check()
        fresh.rollback(0)
        fresh.append(sequence.token_ids[: sequence.num_cached])
        fresh.extend(Draft.empty())
        for found, wanted in zip(cached_rows(sequence), cached_rows(fresh), strict=True):
            np.testing.assert_allclose(found, wanted[:, :, : sequence.num_cached], rtol=0, atol=1e-4)

    context = context_of(staged, options)
    text, steps = run(context, trained(open_self(context)), look=look)
    assert text == plain_text(staged, options, 24)
    assert max(step.num_drafted for step in steps) > 1


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_untrained_it_writes_the_plain_text_too(staged: Model, options: SamplingOptions) -> None:
    context = context_of(staged, options)
    text, steps = run(context, open_self(context), max_new_tokens=32)
    assert text == plain_text(staged, options, 32)
    drafted = [step.num_drafted for step in steps]
    assert drafted[:5] == [0, 1, 1, 1, 0], "the prompt, each exit once, and plain decoding once"


@pytest.mark.parametrize(("late", "least"), [("silent", 1.0), ("nearly silent", 0.4)])
def test_an_exit_that_knows_the_model_drafts_long_chains_which_mostly_stand(
    make_model: Any, late: str, least: float
) -> None:
    context = context_of(make_model(late), OPTIONS[0], rule="rejection")  # greedy: layers in place of milliseconds
    drafter = open_self(context)
    assert isinstance(drafter, SelfDrafter)
    for one in drafter.exits:
        one.judge.stop = ConfidenceStop(threshold=0.0)  # random weights are never sure
    _, steps = run(context, drafter, max_new_tokens=200)
    late_steps = steps[len(steps) // 2 : -1]
    of_second = [step for number, step in enumerate(late_steps) if step.num_drafted > 1]
    assert of_second and max(step.num_drafted for step in of_second) >= (4 if least == 1 else 2)
    share = sum(step.num_accepted for step in of_second) / sum(step.num_drafted for step in of_second)
    assert least <= share and (least == 1) == (share == 1), "with layers that add a little, some guesses fall"


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_no_stage_sees_a_token_twice_while_all_guesses_stand(
    silent: Model, fed: list[tuple[int, ...]], exact: bool
) -> None:
    context = context_of(silent, OPTIONS[0], exact=exact)
    drafter = trained(open_self(context))
    steps = decode(
        context.sequence,
        drafter=drafter,
        accept=rule_named("match", context.sampler, context.sequence.token_ids),
        max_new_tokens=100,
        stop_ids=(),
    )
    next(steps)
    fed.clear()
    step = next(steps)
    assert (step.num_drafted, step.num_accepted) == (LONGEST, LONGEST)
    assert [shape[1] for shape in fed] == [1] * LONGEST + [1, LONGEST + 1]


def test_the_text_ends_at_a_stop_token_inside_the_draft(silent: Model) -> None:
    text = plain_text(silent, OPTIONS[0], 24)
    for at in range(len(PROMPT), len(text)):
        stop_ids = (text[at],)
        context = context_of(silent, OPTIONS[0], stop_ids=stop_ids)
        found, _ = run(context, trained(open_self(context)), stop_ids=stop_ids)
        assert found == text[: text.index(text[at], len(PROMPT)) + 1]


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_limits_and_the_end_of_the_context_fall_inside_the_draft(silent: Model, exact: bool) -> None:
    text = plain_text(silent, OPTIONS[0], 24)
    for num_tokens in range(1, 24):
        length = len(PROMPT) + num_tokens
        context = context_of(silent, OPTIONS[0], exact=exact, context_length=length)
        found, steps = run(context, trained(open_self(context)), max_new_tokens=num_tokens)
        assert found == text[:length]
        assert context.sequence.room == 0
    assert max(step.num_drafted for step in steps) == LONGEST


def test_it_goes_on_where_another_text_left_it(silent: Model) -> None:
    context = context_of(silent, OPTIONS[0])
    drafter = trained(open_self(context))
    run(context, drafter, max_new_tokens=5)
    drafter.propose(context.sequence.token_ids, limit=6)  # the text is left with guesses in the first stages' caches
    text, _ = run(context, trained(open_self(context)), max_new_tokens=7)
    assert text == plain_text(silent, OPTIONS[0], 12)


# Rules that draw by chance


def law_of_texts(model: Model, options: SamplingOptions, length: int) -> dict[tuple[int, ...], float]:
    """Return the chance of each of the next tokens of plain decoding."""
    sampler, sequence, law = sampler_for(options), model.new_sequence(), {(): 1.0}
    for _ in range(length):
        grown = {}
        for path, chance in law.items():
            sequence.rollback(0)
            sequence.append([*PROMPT, *path])
            shares = sampler.law(sequence.extend(Draft.empty())[0], [*PROMPT, *path])
            grown |= {(*path, int(token)): chance * float(shares[token]) for token in np.flatnonzero(shares)}
        law = grown
    return law


def error_of_texts(
    model: Model,
    rule: str,
    change: Callable[[Drafter], Drafter],
    num_texts: int,
    *,
    opened: Callable[[DrafterContext], Drafter] = lambda context: trained(open_self(context)),
) -> float:
    """Return how far texts of many seeds are from the model's law: chi-square as a quantile of the normal law."""
    length, counts = 3, Counter[tuple[int, ...]]()
    options = SamplingOptions(temperature=1.0, top_k=3)
    law = law_of_texts(model, options, length)
    for seed in range(num_texts):
        context = context_of(model, SamplingOptions(temperature=1.0, top_k=3, seed=seed), rule=rule)
        text, _ = run(context, change(opened(context)), max_new_tokens=length + 3)
        counts[tuple(text[len(PROMPT) :][:length])] += 1
    assert set(counts) <= set(law)
    expected = {path: chance * num_texts for path, chance in law.items()}
    often = [path for path in law if expected[path] >= 5]
    cells = [(counts[path], expected[path]) for path in often]
    cells.append((num_texts - sum(found for found, _ in cells), num_texts - sum(wanted for _, wanted in cells)))
    num_free = len(cells) - 1
    chi = sum((found - wanted) ** 2 / max(wanted, 1.0) for found, wanted in cells)
    spread = 2 / (9 * num_free)  # Wilson and Hilferty, 1931
    return float(((chi / num_free) ** (1 / 3) - (1 - spread)) / spread**0.5)


@dataclass
class Picky(Drafter):
    """Leaves out guesses for what they are, which bends the law."""

    drafter: Drafter
    name: str = "self"

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        draft = self.drafter.propose(history, limit=limit, min_chance=min_chance)
        return draft if len(draft) and draft.token_ids[0] % 2 else Draft.empty()


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
def test_rules_that_draw_keep_the_law_of_the_model(make_model: Any, rule: str) -> None:
    model = make_model("nearly silent")
    assert error_of_texts(model, rule, lambda drafter: drafter, 1000) < 3.1  # exceeded once in a thousand
    assert error_of_texts(model, rule, Picky, 1000) > 6, "a wrong drafter must be seen"


@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
def test_a_text_drawn_by_chance_can_be_made_again_however_busy_the_machine_is(staged: Model, rule: str) -> None:
    options, texts = SamplingOptions(temperature=1.0, seed=4), []
    for times in (iter(range(10**6)), iter(number**2 for number in range(10**6))):
        context = context_of(staged, options, rule=rule)
        drafter = open_self(context, clock=lambda times=times: float(next(times)))
        texts.append([(step.token_ids, step.num_drafted) for step in run(context, drafter)[1]])
    assert texts[0] == texts[1]


# What opens


def test_a_bundle_without_exits_says_how_to_make_them(tiny: Model) -> None:
    with pytest.raises(ConfigError, match=r"'self' .* the bundle has no exits.*--exits auto"):
        method_named("self").draft(context_of(tiny, OPTIONS[0]))
    assert "self" not in [method.name for method in weighed_methods(tiny)]


def test_each_exit_of_the_bundle_is_used(make_model: Any, silent: Model) -> None:
    for model, shares in ((silent, [0.25, 0.5, 0.75]), (make_model("silent", exits="3"), [0.75])):
        drafter = open_self(context_of(model, OPTIONS[0]))
        assert isinstance(drafter, SelfDrafter)
        assert [one.share for one in drafter.exits] == shares
        assert tuple(method.name for method in weighed_methods(model)) == ("ngram", "suffix", "recycle", "self")


# Which exit, and how long: the objective


def layers(num_layers: int, longest: int) -> list[float]:
    """Costs in layers: verifying takes a whole pass whatever the length."""
    return [float(num_layers)] * (longest + 1)


TABLE = {
    (2, 0.3): (0.06250, 0.07222, 0.06950, 0.06441, 0.05938, 0.05490),
    (4, 0.6): (0.06250, 0.08000, 0.08167, 0.07771, 0.07205, 0.06620),
    (8, 0.85): (0.06250, 0.07708, 0.08039, 0.07967, 0.07726, 0.07415),
}


@pytest.mark.parametrize(("one", "rates"), TABLE.items())
def test_rates_are_those_of_the_table(one: tuple[int, float], rates: tuple[float, ...]) -> None:
    exit_layers, chance = one
    for longest in range(len(rates)):
        best, rate = best_length(chance, exit_layers, layers(16, longest))
        assert rate == pytest.approx(max(rates[: longest + 1]), abs=5e-6)
        assert best == rates.index(max(rates[: longest + 1]))


def chosen(chances: dict[int, float], num_layers: int, longest: int) -> tuple[int, int, float]:
    """Return the exit, the length and the rate of the best plan."""
    plans = {
        exit_layers: best_length(chance, exit_layers, layers(num_layers, longest))
        for exit_layers, chance in chances.items()
    }
    exit_layers = max(plans, key=lambda one: plans[one][1])
    return exit_layers, *plans[exit_layers]


def test_the_choice_is_that_of_the_table() -> None:
    assert chosen({2: 0.3, 4: 0.6, 8: 0.85}, 16, 5) == (4, 2, pytest.approx(0.08167, abs=5e-6))
    assert chosen({4: 0.95, 8: 0.98}, 32, 18) == (4, 13, pytest.approx(0.12198, abs=5e-6))


def test_where_no_exit_promises_more_the_length_is_0() -> None:
    for exit_layers, chance in {2: 0.0, 4: 0.1, 8: 0.2}.items():
        assert best_length(chance, exit_layers, layers(16, 18)) == (0, 1 / 16)


def test_sure_guesses_are_drafted_as_far_as_they_may_and_impossible_ones_not_at_all() -> None:
    assert best_length(1.0, 4, layers(16, 8)) == (8, pytest.approx(9 / 48))
    assert best_length(0.0, 1e-9, layers(16, 8)) == (0, 1 / 16)


def test_rows_that_cost_much_shorten_the_draft() -> None:
    lengths = [best_length(0.8, 2, [16 + row_cost * rows for rows in range(9)])[0] for row_cost in (0, 2, 8, 16)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 2 and lengths[-1] == 0


# How far: the confidences say


class Sure:
    """A picker whose guesses have the confidences that it is told."""

    def __init__(self, *confidences: float) -> None:
        self.confidences = iter(confidences)

    def start(self, position: int) -> None:
        """Nothing changes from round to round."""

    def pick(self, logits: NDArray[np.float32], history: SequenceOf[int], num: int) -> Picks:
        return Picks([0], [next(self.confidences)])


@dataclass
class OneText:
    token_ids: SequenceOf[int] = (0,)

    def follow(self, history: SequenceOf[int]) -> int:
        return 100

    def logits(self) -> NDArray[np.float32]:
        return NO_LOGITS[None]

    def take(self, token_id: int) -> None:
        """Whatever comes, the next guess is as it is told."""


@pytest.mark.parametrize(
    ("least_chance", "length"), [(0.0, 8), (0.4, 5), (0.5, 4), (0.65, 3), (0.8, 2), (0.9, 2), (0.97, 1), (1.0, 1)]
)
def test_a_chain_ends_behind_the_guess_after_which_one_more_is_not_worth_it(least_chance: float, length: int) -> None:
    # Together the guesses stand with the chances .95, .7125, .64125, .487, .365 ...
    drafter = ModelDrafter(OneText(), Sure(0.95, 0.75, 0.9, 0.76, 0.75, *[0.75] * 3), stop=MidpointStop())
    drafter.least_chance = least_chance
    assert len(drafter.propose([0], limit=20)) == length
    drafter = ModelDrafter(OneText(), Sure(0.95, 0.75, 0.9, 0.76, 0.75, *[0.75] * 3), stop=MidpointStop())
    drafter.least_chance = least_chance
    asked = drafter.propose([0], limit=20, min_chance=0.6)
    assert len(asked) == 3, "asked with a chance, that is what counts"


def test_the_least_chance_is_the_time_of_one_more_guess_at_the_best_rate() -> None:
    decoding = Decoding((0.25,), (always,), random=MeanRandom())
    decoding.run(3)
    one, drafter = decoding.exits[0], decoding.drafter
    drafter.propose(decoding.history, limit=LONGEST)
    length, rate = best_length(
        chance_of(one), 4.0, [16.0, *(4 + 12 * (1 + drafter.row_share * n) for n in range(1, 9))]
    )
    assert length and one.judge.least_chance == pytest.approx(rate * (4 + 12 * drafter.row_share))


# What it learns, round by round


@dataclass
class FakeText:
    price_s: float
    guess_s: float = 0.0
    num_calls: int = 0


@dataclass
class FakeExit(Drafter):
    """Knows the tokens of some positions; calls of its text take what they are told."""

    text: FakeText
    is_right: Callable[[int], bool]
    name: str = "self"

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self.text.guess_s = self.text.price_s
        self.text.num_calls += limit
        return Draft.chain([int(not self.is_right(len(history) + depth)) for depth in range(limit)], source=self.name)


def exit_of(text: FakeText, drafter: FakeExit, share: float) -> Exit[Any, Any]:
    return Exit(num_layers=int(16 * share), num_stages=1, share=share, guess_share=share, text=text, judge=drafter)


def chance_of(exit: Exit[Any, Any]) -> float:
    """Return how often a guess stands, with one of each before any was seen."""
    return (exit.counts.hits + 1) / (exit.counts.hits + exit.counts.misses + 2)


class MeanRandom(Random):
    """Gives the mean of what may be drawn."""

    def betavariate(self, alpha: float, beta: float) -> float:
        return alpha / (alpha + beta)


@dataclass
class Decoding:
    """Decoding with fake exits of a model of `num_layers` layers, one millisecond each."""

    shares: SequenceOf[float]
    rights: SequenceOf[Callable[[int], bool]]
    num_layers: int = 16
    row_share: float = 0.0
    random: Random | None = None

    def __post_init__(self) -> None:
        self.texts = [FakeText(share * self.num_layers) for share in self.shares]
        exits: list[Any] = [
            exit_of(text, FakeExit(text, is_right), share)
            for text, is_right, share in zip(self.texts, self.rights, self.shares, strict=True)
        ]
        self.exits, self.drafter = exits, SelfDrafter(exits, random=self.random)
        self.history = [0]
        self.spent_s = 0.0
        self.plans: list[tuple[float, int]] = []  # the share of the exit that drafted, and how much

    def run(self, num_rounds: int, *, cut: int = 100) -> None:
        """Make so many rounds; of each draft at most `cut` guesses are fed."""
        for _ in range(num_rounds):
            before = [text.num_calls for text in self.texts]
            draft = self.drafter.propose(self.history, limit=LONGEST)
            calls = [text.num_calls - count for text, count in zip(self.texts, before, strict=True)]
            share = next((share for share, count in zip(self.shares, calls, strict=True) if count), 0.0)
            self.plans.append((share, len(draft)))
            num_peeked = min(len(draft), 1 + cut)
            draft = draft.keep(range(1, 1 + min(len(draft), cut)))
            call_s = self.call_s(share, len(draft), num_peeked)
            self.spent_s += call_s + share * self.num_layers * sum(calls)
            rows = draft.path([0] * (1 + len(draft)))
            accepted = [0] * len(rows)
            self.history += accepted
            self.drafter.observe(Round(draft, 0, accepted, rows, NO_LOGITS, call_s, num_peeked))

    def call_s(self, share: float, length: int, num_peeked: int) -> float:
        late = (1 - share) * (1 + self.row_share * length)
        return self.num_layers * (late + (share if num_peeked <= length else 0.0))

    @property
    def pace(self) -> float:
        """Milliseconds of a token, as a multiple of what plain decoding takes."""
        return self.spent_s / (len(self.history) - 1) / self.num_layers


def always(position: int) -> bool:
    return True


def never(position: int) -> bool:
    return False


def test_each_exit_is_tried_once_then_plain_decoding_then_the_best_is_used() -> None:
    decoding = Decoding((0.25, 0.5, 0.75), (always, always, always))
    decoding.run(4)
    assert decoding.plans == [(0.25, 1), (0.5, 1), (0.75, 1), (0, 0)]
    decoding.run(11)
    assert {share for share, _ in decoding.plans[4:]} == {0.25}
    lengths = [length for _, length in decoding.plans[4:]]
    assert lengths == sorted(lengths) and lengths[-1] == LONGEST, "the more stands, the longer it drafts"


def test_an_exit_that_is_never_right_is_left_and_tried_again_rarely() -> None:
    decoding = Decoding((0.25, 0.5), (never, never))
    decoding.run(400)
    drafted = [number for number, (_, length) in enumerate(decoding.plans, start=1) if length]
    assert 0 < len([number for number in drafted if number > 100]) < 45
    assert decoding.pace < 1.05


def test_the_exit_with_the_best_ratio_of_right_guesses_to_price_is_used() -> None:
    often = np.random.default_rng(0).random(10**4) < 0.85
    rarely = np.random.default_rng(1).random(10**4) < 0.3
    decoding = Decoding((0.125, 0.25, 0.5), (lambda at: bool(rarely[at]), lambda at: bool(often[at]), always))
    decoding.run(400)
    counts = Counter(share for share, length in decoding.plans[50:] if length)
    assert counts.most_common(1)[0][0] == 0.25
    assert decoding.pace < 0.75


def test_an_exit_that_has_become_good_is_found_again_and_one_that_became_bad_is_left() -> None:
    turn = 300
    decoding = Decoding((0.25, 0.5), (lambda at: at < turn, lambda at: at >= turn))
    decoding.run(50)
    assert {share for share, _ in decoding.plans[20:40] if share} == {0.25}
    while len(decoding.history) < turn:
        decoding.run(1)
    decoding.run(300)
    assert Counter(share for share, length in decoding.plans[-100:] if length > 1).most_common(1)[0][0] == 0.5
    assert Counter(share for share, length in decoding.plans[-100:] if length)[0.25] < 15, "in tries only"


def test_chances_fade() -> None:
    one = exit_of(FakeText(1.0), FakeExit(FakeText(1.0), always), 0.5)
    assert chance_of(one) == 0.5
    draft = Draft.chain([0, 0, 1], source="self")
    trace = []
    for token_ids in ([0, 0, 0], [0, 0, 1, 5], [9], [0]):
        one.counts.fade(COUNTS_MEMORY)
        one.counts.learn(draft, token_ids)
        trace.append((one.counts.hits, one.counts.misses))
    assert trace == [
        (2.0, 1.0),
        (pytest.approx(0.99 * 2 + 3), pytest.approx(0.99)),
        (pytest.approx(4.98 * 0.99), pytest.approx(0.99**2 + 1)),
        (pytest.approx(4.98 * 0.99**2 + 1), pytest.approx((0.99**2 + 1) * 0.99)),
    ]
    for _ in range(200):
        one.counts.fade(COUNTS_MEMORY)
        one.counts.learn(Draft.chain([1], source="self"), [0])
    assert chance_of(one) < 0.08
    drawn = [one.counts.draw_chance(Random(seed)) for seed in range(200)]
    assert max(drawn) < 0.2 and len({*drawn}) > 100 and drawn[0] == one.counts.draw_chance(Random(0))
    for _ in range(200):
        one.counts.fade(COUNTS_MEMORY)
        one.counts.learn(Draft.chain([0], source="self"), [0])
    assert chance_of(one) > 0.85
    for _ in range(1000):
        one.counts.fade(COUNTS_MEMORY)
    assert chance_of(one) == pytest.approx(0.5, abs=0.01), "of what was long ago nothing is left"


def test_the_call_of_the_prompt_is_not_taken_for_a_plain_one() -> None:
    decoding = Decoding((0.5,), (never,))
    prompt = Round(Draft.empty(), 0, [0], [0], NO_LOGITS, model_s=5000.0)
    decoding.drafter.observe(prompt)
    decoding.run(20)
    assert decoding.drafter.plain_s == decoding.num_layers
    assert sum(length for _, length in decoding.plans[2:]) < 10


def test_a_call_after_a_draft_that_was_dropped_is_not_taken_for_a_plain_one() -> None:
    decoding = Decoding((0.25, 0.5), (always, always))
    decoding.run(3)
    decoding.run(100, cut=0)
    assert decoding.drafter.plain_s == decoding.num_layers
    assert chance_of(decoding.exits[0]) > 0.9, "the text shows that the guesses were right"


@pytest.mark.parametrize("cut", [100, 2], ids=["whole", "cut"])
@pytest.mark.parametrize("row_share", [0.0, 0.05, 0.3])
def test_the_price_of_a_row_is_learned_from_whole_and_cut_drafts(row_share: float, cut: int) -> None:
    decoding = Decoding((0.25,), (always,), row_share=row_share)
    decoding.run(2)
    decoding.run(200, cut=cut)
    assert decoding.drafter.row_share == pytest.approx(row_share, abs=0.01)


def test_a_first_call_that_is_slow_does_not_put_an_exit_off() -> None:
    believed = 0.0
    for spent_s in (50.0, 2.0, 2.2, 1.8):
        believed = usual_s(believed, spent_s)
    assert believed == 1.8
    assert usual_s(2.0, 22.0) == pytest.approx(3.0)


def test_it_hears_of_others_drafts_and_learns_nothing_from_them() -> None:
    decoding = Decoding((0.5,), (always,))
    decoding.run(3)
    known = [(one.counts.hits, one.counts.misses) for one in decoding.exits]
    other = Draft.chain([0, 1], source="suffix")
    decoding.drafter.observe(Round(other, 0, [0, 0], [0, 1], NO_LOGITS, model_s=900.0))
    assert [(one.counts.hits, one.counts.misses) for one in decoding.exits] == known
    assert decoding.drafter.plain_s == decoding.num_layers
