"""Choosing among answers: by all layers what brute force finds, and at an exit what a fresh sequence finds there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from model_calls import watching
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.evaluate import DIALS, ChoiceCase, evaluate_choices, read_cases
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import BoundCall, Draft, Model, exit_stages
from skipstone.runtime.generation import Choice, Normalize, choose

PROMPT = "def add(first, second):\n    return"
WithStopIds = Callable[[Model, Collection[int]], Model]

# Few letters, so that answers begin alike, and some are the beginning of others.
texts = st.text("af( ", min_size=1, max_size=4)
cases = st.tuples(texts, st.lists(texts, min_size=2, max_size=5, unique=True))
# Confidences of a random model are low: most dials of interest are.
normalizations = st.sampled_from(["none", "tokens", "bytes"])
dials = st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.3, 0.6, 0.9, 0.999])


@pytest.fixture(scope="module", params=["four stages", "windows of 5"])
def staged(
    request: pytest.FixtureRequest, tiny_stages: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> Model:
    if request.param == "windows of 5":
        return Model.open(make_bundle(make_checkpoint("mistral", sliding_window=5), exits="1,2,3"))
    return tiny_stages


def logits_after(model: Model, text: SequenceOf[int], num_stages: int | None) -> NDArray[np.float64]:
    """Return logits [V] of an exit, or of all stages, by a sequence that saw nothing before."""
    sequence = model.new_sequence()
    sequence.append(text)
    found = sequence.extend(Draft.empty())[0] if num_stages is None else sequence.peek(text, num_stages=num_stages)
    return found.astype(np.float64)


def slowly(
    model: Model, prompt: str, answers: SequenceOf[str], dial: float, normalize: str, closing: bool
) -> tuple[list[float], int]:
    """The obvious way, a fresh sequence for every token: return the score of each answer, and the depth."""
    alone, texts = model.tokenizer.encode(prompt), [model.tokenizer.encode(prompt + answer) for answer in answers]
    start = next(at for at in range(999) if len({tuple(text[: at + 1]) for text in (alone, *texts)}) > 1)
    exits, num_layers = exit_stages(model) if dial < 1 else {}, model.manifest.dimensions.num_layers
    for depth, num_stages in [*exits.items(), (num_layers, None)]:
        scores = []
        for answer, text in zip(answers, texts, strict=True):
            score = 0.0
            for at in range(start, len(text) + closing):
                logits = logits_after(model, text[:at], num_stages)
                law = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
                score += np.log(law[text[at]] if at < len(text) else law[list(model.manifest.stop_ids)].sum())
            size = {"none": 1, "tokens": len(text) - start + closing, "bytes": len(answer.encode())}[normalize]
            scores.append(float(score) / size)
        reached, chances = depth, np.exp(scores) / np.exp(scores).sum()
        if np.sort(chances)[-1] - np.sort(chances)[-2] > dial:
            break
    return scores, reached


def assert_is_what_the_slow_way_finds(found: Choice, model: Model, prompt: str) -> None:
    scores, depth = slowly(model, prompt, found.answers, found.dial, found.normalize, found.closing)
    # Rows that branch are added up in another order, and a last bit may move a key to the next integer.
    tolerance = 1e-4 if model.sessions.cache_type == "float32" else 0.02
    assert found.scores == pytest.approx(scores, abs=tolerance) and found.depth == depth
    assert scores[found.index] == pytest.approx(max(scores), abs=tolerance)
    assert found.answer == found.answers[found.index]
    weights = np.exp(scores)
    assert list(found.chances.values()) == pytest.approx(list(weights / weights.sum()), abs=tolerance)


def distinct(model: Model, prompt: str, answers: SequenceOf[str]) -> bool:
    encoded = [model.tokenizer.encode(prompt + answer) for answer in answers]
    return len({one[0] for one in encoded}) == 1


@settings(max_examples=40, deadline=None)
@given(case=cases, normalize=normalizations, closing=st.booleans())
def test_all_layers_choose_what_brute_force_finds(
    model: Model, case: tuple[str, list[str]], normalize: Normalize, closing: bool
) -> None:
    prompt, answers = "(" + case[0], case[1]
    if distinct(model, prompt, answers):
        found = choose(model, prompt, answers, normalize=normalize, closing=closing)
        assert_is_what_the_slow_way_finds(found, model, prompt)
        assert found.approximate is None and found.depth == found.num_layers == 4


@settings(max_examples=60, deadline=None)
@given(case=cases, dial=dials, normalize=normalizations, closing=st.booleans())
def test_an_exit_decides_where_the_lead_is_larger_than_the_dial(
    staged: Model, case: tuple[str, list[str]], dial: float, normalize: Normalize, closing: bool
) -> None:
    prompt, answers = "(" + case[0], case[1]
    if distinct(staged, prompt, answers):
        found = choose(staged, prompt, answers, dial=dial, normalize=normalize, closing=closing)
        assert_is_what_the_slow_way_finds(found, staged, prompt)
        assert found.approximate == f"decides at an exit where the best answer leads by more than {dial:g}"


@settings(max_examples=30, deadline=None)
@given(case=cases, dial=dials)
def test_no_layer_sees_the_prompt_twice(tiny_stages: Model, case: tuple[str, list[str]], dial: float) -> None:
    prompt, rows = "(" * 9 + case[0], dict[int, int]()

    def count(call: BoundCall, token_ids: NDArray[np.int64], *_: object) -> None:
        for session in call.sessions:
            rows[id(session)] = rows.get(id(session), 0) + token_ids.shape[1]

    if not distinct(tiny_stages, prompt, case[1]):
        return
    with watching(count):
        found = choose(tiny_stages, prompt, case[1], dial=dial)
    seen = [rows.get(id(session), 0) for session in tiny_stages.sessions.graphs[:4]]
    length = len(tiny_stages.tokenizer.encode(prompt))
    most = sum(len(tiny_stages.tokenizer.encode(answer)) + 1 for answer in case[1])
    assert max(seen) <= length + most * (found.depth + 1)
    assert [count > 0 for count in seen] == [number < found.depth for number in range(4)]


def test_answers_of_any_length_are_read_in_one_call_behind_the_prompt(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    answers = [" first + second", " first - second", " second"]
    tails = {tuple(tiny.tokenizer.encode(PROMPT + answer)) for answer in answers}
    start = len(tiny.tokenizer.encode(PROMPT))
    inner = {text[start : start + length] for text in tails for length in range(1, len(text) - start)}
    choose(tiny, PROMPT, answers)
    assert fed == [(1, start - 1), (1, 1 + len(inner))]


@pytest.mark.parametrize("num_letters", [40, 150])
def test_long_answers_are_read_in_pieces(tiny: Model, fed: list[tuple[int, ...]], num_letters: int) -> None:
    answers = ["q" * num_letters, "q" * (num_letters - 1) + "z", "zq"]
    found = choose(tiny, PROMPT, answers)
    assert max(size for _, size in fed) <= 65
    assert_is_what_the_slow_way_finds(found, tiny, PROMPT)


def test_a_long_prompt_is_read_in_pieces(tiny_stages: Model) -> None:
    wanted = choose(tiny_stages, PROMPT * 4, [" first", " second"], dial=0.99)
    in_pieces = Model(tiny_stages.bundle, tiny_stages.device, prefill_chunk=4)
    found = choose(in_pieces, PROMPT * 4, [" first", " second"], dial=0.99)
    assert (found.index, found.depth) == (wanted.index, wanted.depth)
    assert found.scores == pytest.approx(wanted.scores, abs=1e-4)


def test_it_does_not_matter_which_of_the_two_holds_the_space_between_them(tiny: Model) -> None:
    one = choose(tiny, PROMPT, [" first", " second", " self"])
    other = choose(tiny, PROMPT + " ", ["first", "second", "self"])
    assert [*one.chances.values()] == [*other.chances.values()]
    assert one.answer == " " + other.answer


def test_answers_whose_first_tokens_differ_have_chances_that_sum_to_one(tiny: Model) -> None:
    found = choose(tiny, PROMPT, ["(", "+", "*"])
    logits = logits_after(tiny, tiny.tokenizer.encode(PROMPT), None)
    weights = np.exp([logits[tiny.tokenizer.encode(answer)[-1]] for answer in found.answers])
    assert list(found.chances.values()) == pytest.approx(list(weights / weights.sum()), abs=1e-5)


def test_an_answer_that_begins_another_is_never_less_likely(tiny: Model, with_stop_ids: WithStopIds) -> None:
    """What follows it does not count, and no stop token is asked for; unless the text must end there."""
    model = with_stop_ids(tiny, [])
    for longer in ("(x+", "(x)", "(xx"):
        found = choose(model, PROMPT, [longer, "(x"])
        assert found.answer == "(x" and found.scores[1] > found.scores[0]
    logits = logits_after(tiny, tiny.tokenizer.encode(PROMPT + "(x"), None)
    for stop_id in np.argsort(logits)[[0, -1]].tolist():
        found = choose(with_stop_ids(tiny, [stop_id]), PROMPT, ["(x+", "(x"], closing=True)
        assert_is_what_the_slow_way_finds(found, with_stop_ids(tiny, [stop_id]), PROMPT)


def test_a_short_answer_has_no_advantage_where_scores_are_divided_by_length(tiny: Model) -> None:
    plain, by_token, by_byte = (
        choose(tiny, PROMPT, ["(x+", "(x"], normalize=name)  # type: ignore[arg-type]
        for name in ("none", "tokens", "bytes")
    )
    sizes = [
        len(tiny.tokenizer.encode(PROMPT + answer)) - len(tiny.tokenizer.encode(PROMPT)) for answer in ("(x+", "(x")
    ]
    for number, (size, num_bytes) in enumerate(zip(sizes, (3, 2), strict=True)):
        assert by_token.scores[number] == pytest.approx(plain.scores[number] / size, abs=1e-5)
        assert by_byte.scores[number] == pytest.approx(plain.scores[number] / num_bytes, abs=1e-5)


def test_where_the_border_makes_one_token_texts_are_compared_from_before_it(tiny: Model) -> None:
    encode = tiny.tokenizer.encode
    assert encode("def add(fir")[: len(encode("def add(f"))] != encode("def add(f"), "pick another border"
    found = choose(tiny, "def add(f", ["irst", "ox"])
    assert_is_what_the_slow_way_finds(found, tiny, "def add(f")
    moved = choose(tiny, "def add(", ["first", "fox"])
    assert found.scores == pytest.approx(moved.scores, abs=1e-4)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_capital_is_not_beaten_by_its_people(precision: str, real_file: Path, make_bundle: MakeBundle) -> None:
    model = Model.open(make_bundle(real_file, precision=precision))
    for answers in ([" Paris", " Parisian"], [" Parisian", " Paris", " Rome"]):
        assert choose(model, "The capital of France is", answers).answer == " Paris"


@pytest.mark.parametrize(
    ("prompt", "answers", "options", "message"),
    [
        ("", ["a", "b"], {}, "the prompt is empty"),
        ("x", [], {}, "at least two answers, got 0"),
        ("x", ["a"], {}, "at least two answers, got 1"),
        ("x", "ab", {}, "must be a list of strings, got the single string 'ab'"),
        ("x", ["a", ""], {}, "an answer is empty"),
        ("x", ["a", "b", "a"], {}, "the answer 'a' is given twice"),
        ("x", ["a", "b"], {"dial": 1.5}, "must be between 0 and 1, got 1.5"),
        ("x", ["a", "b"], {"dial": -0.1}, "must be between 0 and 1, got -0.1"),
        ("x", ["a", "b"], {"dial": float("nan")}, "must be between 0 and 1, got nan"),
        ("x", ["a", "b"], {"dial": 0.5}, "the bundle has no exits, which the dial 0.5 wants; take dial 1"),
        ("d", ["ef", "og"], {}, "no token of the prompt 'd' stands before all answers, as its end and an"),
        ("x", ["a", "b"], {"dial": "0.5"}, "the dial of a choice must be a number, got '0.5'"),
        ("x", ["a", "b"], {"dial": True}, "the dial of a choice must be a number, got True"),
        ("x", ["a", "b"], {"normalize": "words"}, "normalize must be none, tokens or bytes, got 'words'"),
        ("x", ["a", 5], {}, "answers[1] must be a string, got 5"),
    ],
)
def test_what_is_no_choice_is_refused_before_any_work(
    tiny: Model,
    fed: list[tuple[int, ...]],
    prompt: str,
    answers: SequenceOf[str],
    options: dict[str, float],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        choose(tiny, prompt, answers, **options)
    assert fed == []


def test_a_prompt_that_does_not_fit_is_refused_before_any_work(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    with pytest.raises(CacheFull, match="cache holds 256 tokens"):
        choose(tiny, "x", ["a", "b" * 300])
    assert fed == []


# Cases


def case_of(prompt: str, answers: SequenceOf[str], right: str | None = None) -> ChoiceCase:
    return ChoiceCase(prompt=prompt, answers=tuple(answers), right=right)


def test_the_figures_are_means_over_the_cases(tiny_stages: Model) -> None:
    known = [
        case_of(PROMPT, [" first", " second"], " first"),
        case_of("class Sequence:", ["\n", " ("]),
        case_of("x = (", ["a", "b", "c", "d"], "d"),
        case_of("The quick brown", [" fox", " dog", " foxes"], " dog"),
    ]
    seen: list[int] = []
    rows = evaluate_choices(tiny_stages, known, (1.0, 0.3, 0.0), on_progress=seen.append)
    assert seen == [1] * 4
    full = [choose(tiny_stages, case.prompt, case.answers) for case in known]
    for row in rows:
        found = [choose(tiny_stages, case.prompt, case.answers, dial=row.dial) for case in known]
        assert row.agreement == np.mean([one.index == other.index for one, other in zip(found, full, strict=True)])
        assert row.right == np.mean([one.answer == known[n].right for n, one in enumerate(found) if known[n].right])
        assert row.layers == np.mean([one.depth / 4 for one in found])
        laws = [
            (np.array([*other.chances.values()]), np.array([*one.chances.values()]))
            for one, other in zip(found, full, strict=True)
        ]
        assert row.kl == pytest.approx(np.mean([(p * np.log(p / q)).sum() for p, q in laws]), abs=1e-6)
        assert row.seconds > 0
    assert (rows[0].agreement, rows[0].layers) == (1.0, 1.0) and rows[0].kl == pytest.approx(0, abs=1e-9)
    assert rows[2].layers == 0.25


def test_cases_without_a_right_answer_have_no_share_of_right_ones(tiny_stages: Model) -> None:
    (row,) = evaluate_choices(tiny_stages, [case_of("x = ", ["a", "b"])], [1.0])
    assert row.right is None


def test_no_call_is_bound_by_the_clock(tiny_stages: Model) -> None:
    moments, seen, bound = [0], set[BoundCall](), list[int]()

    def clock() -> float:
        moments[0] += 1
        return 0.0

    def note(call: BoundCall, *_: object) -> None:
        if call not in seen:
            bound.append(moments[0] % 2)
        seen.add(call)

    with watching(note):
        evaluate_choices(
            tiny_stages,
            [case_of("a few words of " + "some " * 9, [" fox", " dog"])],
            (1.0, 0.5, 0.0),
            clock=clock,
        )
    assert moments[0] > 0 and bound and not any(bound)


def test_a_case_that_cannot_be_decided_is_named(tiny_stages: Model, tiny: Model) -> None:
    with pytest.raises(CacheFull, match="case 2: cache holds"):
        evaluate_choices(tiny_stages, [case_of("x", "ab"), case_of("x" * 300, "ab")])
    with pytest.raises(ConfigError, match="case 1: the bundle has no exits"):
        evaluate_choices(tiny, [case_of("x", "ab")])
    with pytest.raises(ConfigError, match="nothing to judge"):
        evaluate_choices(tiny, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON"),
        ("[]", "a case is"),
        ('{"prompt": "x"}', "a case is"),
        ('{"prompt": "x", "answers": ["a", "b"], "wanted": "a"}', "a case is"),
        ('{"prompt": 1, "answers": ["a", "b"]}', "prompt and right are strings"),
        ('{"prompt": "x", "answers": "ab"}', "answers is a list of strings"),
        ('{"prompt": "x", "answers": ["a", 1]}', "answers is a list of strings"),
        ('{"prompt": "x", "answers": ["a"]}', "a choice wants at least two answers, got 1"),
        ('{"prompt": "x", "answers": ["a", "a"]}', "the answer 'a' is given twice"),
        ('{"prompt": "", "answers": ["a", "b"]}', "the prompt is empty"),
        ('{"prompt": "x", "answers": ["a", "b"], "right": "c"}', "the right answer 'c' is not one of the answers"),
    ],
)
def test_a_line_that_is_no_case_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text('{"prompt": "x", "answers": ["a", "b"]}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"cases.jsonl, line 3: {message}"):
        read_cases(file)


def test_a_file_without_cases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name, message in (("empty", "holds no case"), ("bytes", "cannot be read"), ("missing", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            read_cases(tmp_path / name)


# Command line


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint, exits="auto")


def test_the_command_writes_the_answer_and_says_what_decided(cli: CommandLine, bundle: Path) -> None:
    wanted = LanguageModel(Model.open(bundle)).choose(PROMPT, [" first", " second"], dial=0.0)
    command = ("choose", bundle, "--answer", " first", "--answer", " second")
    outcome = cli(*command, "--dial", 0, stdin=PROMPT)
    assert (outcome.code, outcome.out) == (0, wanted.answer + "\n")
    chances = ", ".join(f"{answer!r} {chance:.3f}" for answer, chance in wanted.chances.items())
    assert outcome.err == f"{chances}; by 1 of 4 layers\napproximate: {wanted.approximate}\n"
    plain = cli(*command, "-p", PROMPT)
    assert "approximate" not in plain.err and "by 4 of 4 layers" in plain.err
    assert cli(*command, "-p", PROMPT, "-q").err == ""
    told = json.loads(cli(*command, "-p", PROMPT, "--dial", 0, "--json").out)
    assert told == wanted.to_json()


def test_the_command_judges_cases(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    line = json.dumps({"prompt": PROMPT, "answers": [" first", " second"], "right": " second"})
    file.write_text(f"{line}\n{line}\n")
    title, head, _, *rows = cli("eval", "choices", bundle, "--cases", file).out.splitlines()
    assert title == "approximate decoding: choice, 2 cases"
    names = [cell.strip() for cell in head.strip("|").split("|")]
    table = [dict(zip(names, (cell.strip() for cell in row.strip("|").split("|")), strict=True)) for row in rows]
    assert [float(row["dial"]) for row in table] == [*DIALS]
    assert (table[0]["agreement"], table[0]["layers"], table[0]["KL"]) == ("100.0%", "100.0%", "0.0000")
    told = json.loads(cli("eval", "choices", bundle, "--cases", file, "--json").out)
    assert (told["approximate"], told["cases"], len(told["settings"])) == ("choice", 2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "x"), "at least two answers, got 0"),
        (("-p", "x", "--answer", "a", "--answer", "a"), "the answer 'a' is given twice"),
        (("-p", "x", "--answer", "a", "--answer", "b", "--dial", "2"), "must be between 0 and 1, got 2"),
        (("--answer", "a", "--answer", "b"), "the prompt is empty"),
        (("--cases", "missing.jsonl"), "--cases has moved: use `skipstone eval choices BUNDLE --cases FILE`"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(
    cli: CommandLine, bundle: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = cli("choose", bundle, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err


def test_a_prompt_from_standard_input_loses_its_last_newline_only(cli: CommandLine, bundle: Path) -> None:
    command = ("choose", bundle, "--answer", " first", "--answer", " self", "--json")
    assert cli(*command, stdin=PROMPT + "\n").out == cli(*command, "-p", PROMPT).out
    assert cli(*command, stdin=PROMPT + "\n\n").out == cli(*command, "-p", PROMPT + "\n").out


def test_cases_want_a_bundle_with_exits(
    cli: CommandLine, tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text('{"prompt": "def", "answers": [" a", " b"]}\n', encoding="utf-8")
    outcome = cli("eval", "choices", make_bundle(tiny_checkpoint), "--cases", file)
    assert (outcome.code, outcome.out) == (2, "")
    assert "no exits; make one with `skipstone export CHECKPOINT -o OUT --exits auto`" in outcome.err
    assert "dial" not in outcome.err
