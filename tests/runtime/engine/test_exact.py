"""Exact mode: tokens and logits of any drafter are, bit by bit, those of plain decoding, also in quantized models."""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections.abc import Sequence as SequenceOf
from functools import cache
from typing import Any

import numpy as np
import pytest
from decoding import OPTIONS, WildDrafter, grown
from numpy.typing import NDArray

import skipstone
from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.costs import CostCurve
from skipstone.runtime.decoding import Drafter, PlainDrafter, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.engine.rounding import RowRule, RowRules
from skipstone.runtime.engine.runner import PREFILL_CHUNK
from skipstone.runtime.generation import GenerationOptions
from skipstone.runtime.methods import MethodChoice, registered_drafters
from skipstone.runtime.sampling import Sampler, SamplingOptions

# The bundle that everybody loads is one stage without experts; test_identity.py has `self` and `skip`, and the tests of
# the method `sparse` have that.
METHODS = ("auto", *(name for name in registered_drafters() if name not in ("self", "skip", "free", "sparse")))
NUM_TOKENS = 24
GREEDY = SamplingOptions()
SAMPLED = SamplingOptions(temperature=0.8, seed=3)
# Where rows are free auto drafts as much as it can, and nothing needs to be measured.
FREE_ROWS = CostCurve(rows=(1, 16), contexts=(64,), seconds=((0.001, 0.001),))


@pytest.fixture(scope="module", params=["int4", "int4-fast"])
def pebble(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """pebble with its drafter: as everybody loads it, and in blocks that some processors take in pairs of rows."""
    if request.param == "int4":
        model = skipstone.load("pebble").runtime
    else:
        path = tmp_path_factory.mktemp("fast") / "pebble"
        model = Model.open(skipstone.export("pebble", path, precision="int4-fast", drafter="pebble-mini"))
    model.shared.get("cost curve", lambda: FREE_ROWS)
    return model


@pytest.fixture(scope="module")
def code(pebble: Model) -> list[int]:
    """A long text as tokens."""
    return pebble.tokenizer.encode(inspect.getsource(argparse)[:20000])


def prompts_in(code: SequenceOf[int], count: int) -> list[list[int]]:
    """Return pieces of 1 to 40 tokens from all over a text."""
    random = np.random.default_rng(0)
    starts = np.linspace(0, len(code) - 41, count).astype(int).tolist()
    return [list(code[start : start + int(random.integers(1, 41))]) for start in starts]


class Texts:
    """Makes texts with one model, and knows those of plain decoding."""

    def __init__(self, model: Model, options: SamplingOptions) -> None:
        self.model, self.options = model, options
        self.plain = cache(lambda prompt: self._decode(prompt, "plain")[:2])

    def _decode(self, prompt: SequenceOf[int], method: str) -> tuple[list[int], NDArray[np.float32], int]:
        sequence = self.model.new_sequence(exact=True)
        sequence.append(prompt)
        sampler = Sampler.from_options(self.options, stop_ids=(), num_prompt_tokens=len(prompt))
        return decoded(sequence, sampler, MethodChoice.parse(method).open(self.model, sequence, sampler))

    def check(self, prompts: SequenceOf[SequenceOf[int]], method: str) -> int:
        """Compare the texts of these prompts with those of plain decoding; return how many guesses stood."""
        num_guessed = 0
        for prompt in prompts:
            token_ids, logits, num_right = self._decode(prompt, method)
            wanted_ids, wanted_logits = self.plain(tuple(prompt))
            assert token_ids == wanted_ids, (method, prompt)
            assert np.array_equal(logits.view(np.uint32), wanted_logits.view(np.uint32)), (method, prompt)
            num_guessed += num_right
        return num_guessed


def decoded(
    sequence: Sequence, sampler: Sampler, drafter: Drafter, *, num_tokens: int = NUM_TOKENS
) -> tuple[list[int], NDArray[np.float32], int]:
    """Return the tokens, their logits [tokens, V], and how many of the tokens were guessed."""
    token_ids, logits, num_guessed = list[int](), list[NDArray[np.float32]](), 0
    accept = match(sampler, sequence.token_ids)
    for step in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=num_tokens, stop_ids=()):
        token_ids += step.token_ids
        logits.append(step.logits[: len(step.token_ids)].copy())
        num_guessed += step.num_accepted
    return token_ids, np.concatenate(logits), num_guessed


def is_refused(model: Model, method: str, *, exact: bool) -> bool:
    """Whether a drafter cannot be opened for a text of this kind."""
    sequence = model.new_sequence(exact=exact)
    try:
        MethodChoice.parse(method).open(model, sequence, Sampler(greedy=True))
    except ConfigError as error:
        assert "chains only" in str(error) or "branch" in str(error), error
        return True
    return False


# Every drafter


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_tokens_and_logits_of_every_drafter_are_those_of_plain_decoding(
    pebble: Model, code: list[int], options: SamplingOptions
) -> None:
    texts, guesses = Texts(pebble, options), dict[str, int]()
    for method in METHODS:
        if is_refused(pebble, method, exact=True):
            assert not is_refused(pebble, method, exact=False), "what exact mode refuses needs trees"
        else:
            guesses[method] = texts.check(prompts_in(code, 4), method)
    assert set(guesses) >= {"auto", "ngram", "suffix", "recycle", "jacobi", "model", "staged"}
    assert sum(guesses.values()) > 50, guesses


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_tokens_and_logits_of_every_drafter_are_those_of_plain_decoding_for_fifty_prompts(
    pebble: Model, code: list[int]
) -> None:
    texts = Texts(pebble, GREEDY)
    for method in METHODS:
        if not is_refused(pebble, method, exact=True):
            num_guessed = texts.check(prompts_in(code, 50), method)
            assert num_guessed > 0 or method == "auto"  # which drafts as the machine's business allows


@pytest.mark.parametrize("name", ["lookahead", "tree"])
def test_what_only_drafts_trees_is_refused_by_name(pebble: Model, name: str) -> None:
    model = LanguageModel(pebble)
    with pytest.raises(ConfigError, match=f"exact takes chains only, which {name} does not draft"):
        model.generate("def f", max_new_tokens=4, decode=name, exact=True)


# Any chains


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("length", [1, 2, 3, 17, PREFILL_CHUNK - 1, PREFILL_CHUNK, PREFILL_CHUNK + 1, 300, 513])
def test_prompts_of_any_length_are_exact(pebble: Model, code: list[int], length: int) -> None:
    prompt, runs = code[100 : 100 + length], []
    sampler, num_guessed = Sampler(greedy=True), 0
    truth: list[int] = []
    for seed in range(3):
        sequence = pebble.new_sequence(exact=True)
        sequence.append(prompt)
        drafter = WildDrafter(truth, seed, branches=False, share=0.8) if seed else PlainDrafter()
        runs.append(decoded(sequence, sampler, drafter))
        num_guessed += runs[-1][2]
        truth = sequence.token_ids
    for token_ids, logits, _ in runs[1:]:
        assert token_ids == runs[0][0]
        assert np.array_equal(logits, runs[0][1])
    assert num_guessed > 5


@pytest.mark.filterwarnings("error")
def test_a_text_that_fills_the_context_is_exact(pebble: Model, code: list[int]) -> None:
    for num_prompt in (8, 9):
        runs: list[tuple[list[int], NDArray[np.float32], int]] = []
        for seed in range(3):
            sequence = pebble.new_sequence(context_length=num_prompt + NUM_TOKENS, exact=True)
            sequence.append(code[:num_prompt])
            truth = code[:num_prompt] + (runs[0][0] if runs else [])
            drafter = WildDrafter(truth, seed, branches=False, share=0.9) if seed else PlainDrafter()
            runs.append(decoded(sequence, Sampler(greedy=True), drafter))
            assert sequence.room == 0
        assert all(token_ids == runs[0][0] and np.array_equal(logits, runs[0][1]) for token_ids, logits, _ in runs)


@pytest.mark.filterwarnings("error")
def test_a_text_that_goes_on_after_more_was_given_is_exact(pebble: Model, code: list[int]) -> None:
    for num_given in (1, 2, 3):
        runs: list[list[NDArray[np.float32]]] = []
        truth: list[int] = []
        for seed in range(3):
            sequence = pebble.new_sequence(exact=True)
            sequence.append(code[:7])
            runs.append([])
            for turn in range(3):
                drafter = WildDrafter(truth, seed, branches=False, share=0.8) if seed else PlainDrafter()
                runs[-1].append(decoded(sequence, Sampler(greedy=True), drafter, num_tokens=9)[1])
                sequence.append(code[10 * turn : 10 * turn + num_given])
            truth = sequence.token_ids
        assert all(np.array_equal(one, other) for run in runs for one, other in zip(run, runs[0], strict=True))


@pytest.mark.filterwarnings("error")
def test_penalties_limits_and_truncation_are_exact_too(pebble: Model, code: list[int]) -> None:
    for options in OPTIONS:
        texts = Texts(pebble, options)
        for method in ("suffix", "recycle", "jacobi"):
            texts.check([code[50:63]], method)


# As users ask for it


def logprobs_of(model: LanguageModel, **options: Any) -> list[tuple[Any, ...]]:
    found = model.generate("def read_config(path):\n", max_new_tokens=16, logprobs=3, exact=True, **options)
    return [(entry.token_id, entry.logprob, entry.top) for entry in found.logprobs]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 5}], ids=["greedy", "sampled"])
def test_the_probabilities_that_a_user_sees_are_the_same_numbers(pebble: Model, options: dict[str, Any]) -> None:
    model = LanguageModel(pebble)
    plain = logprobs_of(model, decode="plain", **options)
    for decode_by in ("auto", "ngram", "model", "suffix,recycle"):
        assert logprobs_of(model, decode=decode_by, **options) == plain


def test_samples_of_one_prompt_are_exact(pebble: Model) -> None:
    model = LanguageModel(pebble)
    found = model.samples("import os\n", 3, max_new_tokens=12, temperature=0.8, seed=5, exact=True, logprobs=1)
    for seed, generation in enumerate(found, start=5):
        alone = model.generate(
            "import os\n", max_new_tokens=12, temperature=0.8, seed=seed, exact=True, logprobs=1, decode="plain"
        )
        assert generation.logprobs == alone.logprobs


# What exact mode costs and refuses


def test_rows_that_are_added_take_no_room_from_the_text(tiny: Model) -> None:
    rules = RowRules(RowRule(2, 2), RowRule(2, 2))
    sequence = Sequence.open(tiny.spares, 9, rules=rules)
    with pytest.raises(CacheFull, match="cache holds 9 tokens, 10 needed"):
        sequence.append([5] * 10)
    sequence.append([5] * 9)
    assert (sequence.room, sequence.fork().room) == (0, 0)
    assert np.isfinite(sequence.extend(Draft.empty())).all()
    assert Sequence.open(tiny.spares, None, rules=rules).room == tiny.manifest.context_length - 1


def test_trees_are_refused(tiny: Model) -> None:
    sequence = tiny.new_sequence(exact=True)
    sequence.append([5, 6])
    assert not sequence.takes_trees
    with pytest.raises(ConfigError, match="this sequence takes chains only"):
        sequence.extend(grown([(0, 8), (0, 9)]))


def test_a_drafter_that_branches_all_the_same_is_left_out_and_the_text_stays_exact(tiny: Model) -> None:
    truth, sampler = list[int](), Sampler(greedy=True)
    runs = []
    for drafter in (PlainDrafter(), WildDrafter(truth, 1, branches=True)):
        sequence = tiny.new_sequence(exact=True)
        sequence.append([5, 6, 7])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            runs.append(decoded(sequence, sampler, drafter))
        truth.extend(sequence.token_ids)
    assert runs[0][0] == runs[1][0] and np.array_equal(runs[0][1], runs[1][1])
    assert len(said) == 1 and "takes chains only" in str(said[0].message)


@pytest.mark.parametrize("verify", ["rejection", "k-seq"])
def test_rules_that_give_another_text_are_refused(verify: str) -> None:
    with pytest.raises(ConfigError, match=f"exact gives the bits of plain decoding, which {verify} does not"):
        GenerationOptions(decode="model", verify=verify, exact=True)
