"""Choosing among answers: by all layers what brute force finds, and at an exit what a fresh sequence finds there."""

from __future__ import annotations

import json
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
from skipstone.runtime.generation import Choice, choose

PROMPT = "def add(first, second):\n    return"
WithStopIds = Callable[[Model, Collection[int]], Model]

# Few letters, so that answers begin alike, and some are the beginning of others.
texts = st.text("af( ", min_size=1, max_size=4)
cases = st.tuples(texts, st.lists(texts, min_size=2, max_size=5, unique=True))
# Confidences of a random model are low: most dials of interest are.
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


def slowly(model: Model, prompt: str, answers: SequenceOf[str], dial: float) -> tuple[int, list[float], list[int]]:
    """The obvious way, token by token: return the answer's number, the chance of each step, and depths of choices.

    Also where there is one way only a step is taken, of chance 1 and no depth.
    """
    encoded = [[*model.tokenizer.encode(prompt + answer), None] for answer in answers]
    exits, num_layers = exit_stages(model) if dial < 1 else {}, model.manifest.dimensions.num_layers
    left, text, chances, depths = list(range(len(answers))), [], [], [0]
    while len(left) > 1:
        ways = list(dict.fromkeys(encoded[number][len(text)] for number in left))
        if len(ways) > 1:
            least = 0 if depths[-1] == num_layers else depths[-1]
            tried = [(depth, stages) for depth, stages in exits.items() if depth >= least]
            for reached, num_stages in [*tried, (num_layers, None)]:
                logits, depth = logits_after(model, text, num_stages), reached
                stop = np.log(np.exp(logits[list(model.manifest.stop_ids)]).sum())
                weights = np.exp([stop if token_id is None else logits[token_id] for token_id in ways])
                law = weights / weights.sum()
                if num_stages is None or np.sort(law)[-1] - np.sort(law)[-2] > dial:
                    break
            depths.append(depth)
            chances.append(float(law.max()))
            way = ways[int(law.argmax())]
        else:
            (way,) = ways
        left = [number for number in left if encoded[number][len(text)] == way]
        text.append(way)
    return left[0], chances, depths[1:]


def assert_is_what_the_slow_way_finds(found: Choice, model: Model, prompt: str, dial: float) -> None:
    index, chances, depths = slowly(model, prompt, found.answers, dial)
    assert (found.index, found.answer) == (index, found.answers[index])
    assert [max(branch.chances) for branch in found.branches] == pytest.approx(chances, abs=1e-5)
    assert [branch.depth for branch in found.branches] == depths and found.depth == max(depths)
    assert found.chances[found.answer] == pytest.approx(np.prod(chances), abs=1e-5)


def distinct(model: Model, prompt: str, answers: SequenceOf[str]) -> bool:
    encoded = [model.tokenizer.encode(prompt + answer) for answer in answers]
    return len({one[0] for one in encoded}) == 1


@settings(max_examples=40, deadline=None)
@given(case=cases)
def test_all_layers_choose_what_brute_force_finds(model: Model, case: tuple[str, list[str]]) -> None:
    prompt, answers = "(" + case[0], case[1]
    if distinct(model, prompt, answers):
        found = choose(model, prompt, answers)
        assert_is_what_the_slow_way_finds(found, model, prompt, 1.0)
        assert found.approximate is None and found.depth == found.num_layers == 4


@settings(max_examples=60, deadline=None)
@given(case=cases, dial=dials)
def test_an_exit_decides_where_the_lead_is_larger_than_the_dial(
    staged: Model, case: tuple[str, list[str]], dial: float
) -> None:
    prompt, answers = "(" + case[0], case[1]
    if distinct(staged, prompt, answers):
        found = choose(staged, prompt, answers, dial=dial)
        assert_is_what_the_slow_way_finds(found, staged, prompt, dial)
        assert found.approximate == f"decides at an exit where the best answer leads by more than {dial:g}"


@settings(max_examples=30, deadline=None)
@given(case=cases, dial=dials)
def test_no_layer_sees_a_token_twice(tiny_stages: Model, case: tuple[str, list[str]], dial: float) -> None:
    prompt, rows = "(" + case[0], dict[int, int]()

    def count(call: BoundCall, token_ids: NDArray[np.int64], *_: object) -> None:
        for session in call.sessions:
            rows[id(session)] = rows.get(id(session), 0) + token_ids.shape[1]

    if not distinct(tiny_stages, prompt, case[1]):
        return
    with watching(count):
        found = choose(tiny_stages, prompt, case[1], dial=dial)
    seen = [rows.get(id(session), 0) for session in tiny_stages.sessions.graphs[:4]]
    assert seen == sorted(seen, reverse=True)  # the first layers saw at least what the later ones did
    assert seen[0] <= len(tiny_stages.tokenizer.encode(prompt + found.answer))
    assert [count > 0 for count in seen] == [number < found.depth for number in range(4)]


def test_a_long_prompt_is_read_in_pieces(tiny_stages: Model) -> None:
    wanted = choose(tiny_stages, PROMPT * 4, [" first", " second"], dial=0.99)
    in_pieces = Model(tiny_stages.bundle, tiny_stages.device, prefill_chunk=4)
    found = choose(in_pieces, PROMPT * 4, [" first", " second"], dial=0.99)
    assert (found.index, found.depth) == (wanted.index, wanted.depth)
    assert found.branches[0].chances == pytest.approx(wanted.branches[0].chances, abs=1e-4)


def test_it_does_not_matter_which_of_the_two_holds_the_space_between_them(tiny: Model) -> None:
    one = choose(tiny, PROMPT, [" first", " second", " self"])
    other = choose(tiny, PROMPT + " ", ["first", "second", "self"])
    assert [*one.chances.values()] == [*other.chances.values()]
    assert one.answer == " " + other.answer


def test_answers_whose_first_tokens_differ_have_chances_that_sum_to_one(tiny: Model) -> None:
    found = choose(tiny, PROMPT, ["(", "+", "*"])
    assert len(found.branches) == 1
    logits = logits_after(tiny, tiny.tokenizer.encode(PROMPT), None)
    weights = np.exp([logits[tiny.tokenizer.encode(answer)[-1]] for answer in found.answers])
    assert list(found.chances.values()) == pytest.approx(list(weights / weights.sum()), abs=1e-5)


def test_answers_that_never_parted_have_no_chance_of_their_own(tiny: Model) -> None:
    """Every pair of letters, with the other two beginning alike: whichever wins, what is known sums up."""
    answers = ["qa", "qb", "za", "zb"]
    found = choose(tiny, PROMPT, answers)
    same, others = [found.answer[0] + end for end in "ab"], [one for one in answers if one[0] != found.answer[0]]
    assert [found.chances[one] for one in others] == [None, None]
    known = [found.chances[one] or 0.0 for one in same]
    assert sum(known) == pytest.approx(max(found.branches[0].chances)) and min(known) > 0
    assert found.to_json()["chances"][others[0]] is None


def test_an_answer_that_begins_another_competes_by_the_stop_tokens(tiny: Model, with_stop_ids: WithStopIds) -> None:
    logits = logits_after(tiny, tiny.tokenizer.encode(PROMPT + "(x"), None)
    (other,) = tiny.tokenizer.encode("+", add_special_tokens=False)
    rank = np.argsort(logits)
    for stop_ids in ([int(rank[-1])], [int(rank[0])], [int(rank[0]), int(rank[-1]), int(rank[-2])]):
        found = choose(with_stop_ids(tiny, stop_ids), PROMPT, ["(x+", "(x"])
        ended, went_on = np.exp(logits[stop_ids]).sum(), np.exp(logits[other])
        assert found.chances["(x"] == pytest.approx(ended / (ended + went_on), abs=1e-5)
        assert found.index == int(ended > went_on)
    with pytest.raises(ConfigError, match=r"'\(x' begins another, and the model has no stop token"):
        choose(with_stop_ids(tiny, []), PROMPT, ["(x+", "(x"])
    assert choose(with_stop_ids(tiny, []), PROMPT, ["(x+", "(y"]).answer in ("(x+", "(y")


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
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
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
            (np.array(other.branches[0].chances), np.array(one.branches[0].chances))
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
