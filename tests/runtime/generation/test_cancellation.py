"""A text may be cancelled at any time and from anywhere: it ends, and nothing is believed that was not made."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeBundle, MakeCheckpoint

import skipstone
from skipstone import Cancellation, LanguageModel, PromptProgress
from skipstone.errors import ConfigError
from skipstone.runtime.engine import PromptWatch

PROMPT = "def add(first, second):\n    return first + second\n" * 40
QUICK = {"max_new_tokens": 6, "context_length": 4096}


@pytest.fixture(scope="module")
def model(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> LanguageModel:
    return skipstone.load(make_bundle(make_checkpoint(max_position_embeddings=4096)))


@pytest.fixture(scope="module")
def staged(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> LanguageModel:
    return skipstone.load(make_bundle(make_checkpoint(max_position_embeddings=4096), exits="1,2"))


class CancelAfter:
    """Hears of pieces of a prompt and cancels after some."""

    def __init__(self, num_pieces: int) -> None:
        self.cancellation, self.heard, self._left = Cancellation(), list[PromptProgress](), num_pieces

    def __call__(self, progress: PromptProgress) -> None:
        self.heard.append(progress)
        self._left -= 1
        if not self._left:
            self.cancellation.cancel()


def test_a_prompt_is_heard_piece_by_piece(model: LanguageModel) -> None:
    heard: list[PromptProgress] = []
    model.generate(PROMPT, on_prompt=heard.append, **QUICK)
    num_tokens = len(model.encode(PROMPT))
    assert [progress.num_read for progress in heard] == [*range(256, num_tokens, 256), num_tokens]
    assert {progress.num_tokens for progress in heard} == {num_tokens}
    assert heard[-1].left_s == 0 < heard[0].left_s
    assert heard[0].tokens_per_s > 0


def test_the_steps_of_a_text_are_no_prompt(model: LanguageModel) -> None:
    heard: list[PromptProgress] = []
    model.generate("def", on_prompt=heard.append, max_new_tokens=20)
    assert [progress.num_read for progress in heard] == [len(model.encode("def"))]


def test_a_text_that_is_cancelled_while_its_prompt_is_read_ends_with_figures(model: LanguageModel) -> None:
    after = CancelAfter(2)
    made = model.generate(PROMPT, cancel=after.cancellation, on_prompt=after, **QUICK)
    assert (made.text, made.token_ids, made.finish_reason) == ("", (), "cancelled")
    assert made.stats.prefill_tokens_per_s > 0
    assert after.heard[-1].num_read == 512


@pytest.mark.parametrize("decode", ["plain", "auto", "ngram", "recycle"])
def test_a_text_keeps_what_was_emitted(model: LanguageModel, decode: str) -> None:
    whole = model.generate(PROMPT, decode=decode, max_new_tokens=24, context_length=4096)
    cancellation, pieces = Cancellation(), []
    for piece in model.stream(PROMPT, decode=decode, max_new_tokens=24, context_length=4096, cancel=cancellation):
        pieces.append(piece)
        if len(pieces) == 3:
            cancellation.cancel()
    made = skipstone.Generation.join(pieces)
    assert made.finish_reason == "cancelled"
    assert 0 < len(made.token_ids) < 24
    assert made.token_ids == whole.token_ids[: len(made.token_ids)]
    assert whole.text.startswith(made.text) or made.text.endswith("�")


def test_what_was_cancelled_already_costs_no_call(model: LanguageModel, fed: list[tuple[int, ...]]) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    assert model.generate(PROMPT, cancel=cancellation, **QUICK).finish_reason == "cancelled"
    assert [made.finish_reason for made in model.generate([PROMPT, "def"], cancel=cancellation, **QUICK)] == [
        "cancelled"
    ] * 2
    samples = model.samples("def", 3, temperature=1.0, seed=1, cancel=cancellation, **QUICK)
    assert [made.finish_reason for made in samples] == ["cancelled"]
    assert not fed


@pytest.mark.parametrize("num_pieces", [1, 2, 3])
@pytest.mark.parametrize("name", ["model", "staged"])
def test_nothing_is_believed_cached_of_a_call_that_was_ended(
    request: pytest.FixtureRequest, name: str, num_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turn of a talk, whose prompt begins as the cancelled one, gets the answer of a fresh talk."""
    model: LanguageModel = request.getfixturevalue(name)
    after = CancelAfter(num_pieces)
    talk = model.chat(context_length=4096)
    pieces = list(talk.stream(PROMPT, cancel=after.cancellation, on_prompt=after, max_new_tokens=6))
    assert pieces[-1].finish_reason == "cancelled"
    assert talk.messages == []
    talk._sequence.check()
    again = "".join(piece.text for piece in talk.stream(PROMPT, max_new_tokens=6, temperature=0))
    fresh = "".join(
        piece.text for piece in model.chat(context_length=4096).stream(PROMPT, max_new_tokens=6, temperature=0)
    )
    assert again == fresh


def test_all_texts_of_a_batch_end(model: LanguageModel) -> None:
    after = CancelAfter(3)
    prompts = [PROMPT, PROMPT + "x", "def"]
    made = model.generate(prompts, decode="plain", cancel=after.cancellation, on_prompt=after, **QUICK)
    assert [text.finish_reason for text in made] == ["cancelled"] * 3
    assert after.heard[0].num_tokens == sum(len(model.encode(prompt)) for prompt in prompts)


def test_texts_side_by_side_end(model: LanguageModel) -> None:
    after = CancelAfter(1)
    options = {"temperature": 1.0, "seed": 1, "max_new_tokens": 6}
    made = list(model.samples(PROMPT, 3, first=3, cancel=after.cancellation, on_prompt=after, **options))
    assert [text.finish_reason for text in made] == ["cancelled"] * 3


def test_another_thread_ends_a_call_that_runs(model: LanguageModel) -> None:
    cancellation, heard = Cancellation(), threading.Event()
    thread = threading.Thread(target=lambda: heard.wait(10) and cancellation.cancel())
    thread.start()
    made = model.generate(PROMPT * 2, cancel=cancellation, on_prompt=lambda progress: heard.set(), **QUICK)
    thread.join()
    assert made.finish_reason == "cancelled"


@pytest.fixture
def alarm() -> Iterator[None]:
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timers of signals")
def test_a_signal_is_heard_while_a_call_runs(
    model: LanguageModel, alarm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipstone.runtime.engine import interruptible

    heard_at: list[float] = []

    def slow() -> None:
        while not (cancellation := interruptible.current_cancellation()) or not cancellation.cancelled:
            time.sleep(0.001)
        heard_at.append(time.monotonic())

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            interruptible.run_interruptibly(slow)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert heard_at, "the call has ended before the interrupt is raised"


def test_what_is_no_cancellation_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match=r"cancel must be a skipstone\.Cancellation, got True"):
        model.generate("def", cancel=True)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="on_prompt must be"):
        model.generate("def", on_prompt=3)  # type: ignore[call-overload]


def test_prompts_one_after_the_other_are_counted_apart_and_expected_ones_together() -> None:
    heard: list[tuple[int, int]] = []
    watch = PromptWatch(lambda progress: heard.append((progress.num_read, progress.num_tokens)), clock=lambda: 0.0)
    watch.expect(5)
    watch.read(5)
    watch.expect(9)
    for size in (4, 5, 7):  # what nobody expected is not told
        watch.read(size)
    watch.expect(10)
    for _ in range(2):
        watch.expect(5)
        watch.read(5)
    watch.has_begun = True
    watch.expect(3, piece=256)  # tokens of a draft
    watch.read(3)
    assert heard == [(5, 5), (4, 9), (9, 9), (5, 10), (10, 10)]


def test_a_file_of_a_prompt_that_was_cancelled_is_not_written(model: LanguageModel, tmp_path: Path) -> None:
    after = CancelAfter(2)
    file = tmp_path / "prompt.cache"
    made = model.generate(PROMPT, prompt_cache=file, cancel=after.cancellation, on_prompt=after, **QUICK)
    assert made.finish_reason == "cancelled"
    again = model.generate(PROMPT, prompt_cache=file, **QUICK)
    assert again.text == model.generate(PROMPT, **QUICK).text
    assert file.exists()


def test_a_text_is_decoded_beside_one_that_reads(model: LanguageModel) -> None:
    """Tokens come between the pieces of another thread's prompt."""
    counts: list[int] = []
    made, ready, stop = 0, threading.Event(), Cancellation()

    def decode() -> None:
        nonlocal made
        for _ in model.stream("def", max_new_tokens=4000, context_length=4096, decode="plain", cancel=stop):
            made += 1
            ready.set()

    thread = threading.Thread(target=decode)
    thread.start()
    assert ready.wait(10)
    model.generate(PROMPT * 3, on_prompt=lambda progress: counts.append(made), max_new_tokens=1, context_length=4096)
    stop.cancel()
    thread.join(10)
    assert counts[-1] > counts[0]


def test_a_draft_model_that_reads_the_prompt_is_heard_and_cancelled(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    size = {"max_position_embeddings": 4096}
    small = make_checkpoint(num_hidden_layers=1, **size)
    model = skipstone.load(make_bundle(make_checkpoint(**size), draft_model=small))
    num_pieces = -(-len(model.encode(PROMPT)) // 256)
    after = CancelAfter(num_pieces + 2)
    options = {"decode": "model", "max_new_tokens": 50, "context_length": 4096}
    made = model.generate(PROMPT, cancel=after.cancellation, on_prompt=after, **options)
    assert (made.finish_reason, len(made.token_ids)) == ("cancelled", 1)
    assert len(after.heard) == num_pieces + 2
    whole = model.generate(PROMPT, **options)
    assert whole.token_ids == model.generate(PROMPT, **options | {"decode": "plain"}).token_ids
