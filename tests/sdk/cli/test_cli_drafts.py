"""What the terminal shows of drafting: the same text in colours, and figures that add up."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

import pytest
from command_line import without_colours

from skipstone.cli.drafts import COLOURS, DraftPainter, speed_line, stats_table
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model, SharedStores
from skipstone.runtime.generation import Generation, Piece, Stats
from skipstone.runtime.generation.stats import DrafterStats

PROMPT = "def add("
WithStopIds = Callable[[Model, Collection[int]], Model]
STATS = Stats(
    prompt_tokens=12,
    new_tokens=100,
    prefill_tokens_per_s=1234.5,
    decode_tokens_per_s=98.76,
    ttft_s=0.01,
    model_calls=40,
    tokens_per_call=2.5,
    drafters={
        "suffix": DrafterStats(rounds=20, drafted=80, accepted=55),
        "model": DrafterStats(rounds=4, drafted=12, accepted=3),
    },
    draft_s=0.001,
    model_s=0.2,
    accept_s=0.0102,
    other_s=0.03,
    peak_memory_bytes=321_000_000,
)


@pytest.fixture
def model(tiny: Model) -> Model:
    fresh = copy.copy(tiny)
    fresh.shared = SharedStores()
    return fresh


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")


def painted(model: Model, prompt: str = PROMPT, **options: object) -> tuple[str, str, DraftPainter]:
    """Return the text of a stream as it is, in colours, and who coloured it."""
    pieces = list(LanguageModel(model).stream(prompt, **options))
    painter = DraftPainter(model, last_id=model.tokenizer.encode(prompt)[-1])
    return "".join(piece.text for piece in pieces), "".join(map(painter.paint, pieces)), painter


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize("decode", ["plain", "suffix", "recycle", "ngram,recycle"])
def test_the_text_stays_the_same_under_its_colours(model: Model, decode: str) -> None:
    for _ in range(2):
        text, shown, _ = painted(model, decode=decode, max_new_tokens=30)
        assert without_colours(shown) == text
    assert (shown != text) == (decode != "plain")


@pytest.mark.usefixtures("colours")
def test_a_stop_string_ends_the_colours_too(model: Model) -> None:
    whole = painted(model, decode="plain", max_new_tokens=30)[0]
    for start in range(5, 25, 4):
        text, shown, _ = painted(model, decode="suffix", max_new_tokens=30, stop=whole[start : start + 3])
        assert without_colours(shown) == text == whole[: whole.find(whole[start : start + 3])]


@pytest.mark.usefixtures("colours")
def test_a_stop_token_shows_nothing_wherever_it_stands(model: Model, with_stop_ids: WithStopIds) -> None:
    token_ids = LanguageModel(with_stop_ids(model, ())).generate(PROMPT, decode="plain", max_new_tokens=60).token_ids
    for stop_id in set(token_ids):
        stopped = with_stop_ids(model, (stop_id,))
        text, shown, _ = painted(stopped, decode="plain", max_new_tokens=60)
        assert without_colours(shown) == text


@pytest.mark.usefixtures("colours")
def test_guesses_have_the_colour_of_their_drafter_and_the_rest_has_none(model: Model) -> None:
    def piece(text: str, drafter: str, num_guessed: int) -> Piece:
        token_ids = tuple(model.tokenizer.encode(text))
        return Piece(text=text, token_ids=token_ids, drafter=drafter, num_guessed=num_guessed)

    painter = DraftPainter(model, last_id=model.tokenizer.encode(" ")[-1])
    first, second = (f"\033[{colour}m" for colour in COLOURS[:2])
    assert painter.legend() == "guessed by nobody"
    assert painter.paint(piece("01", "plain", 0)) == "01"
    assert painter.paint(piece("234", "suffix", 2)) == f"{first}2\033[0m{first}3\033[0m4"
    assert painter.paint(piece("56", "model", 1)) == f"{second}5\033[0m6"
    assert painter.paint(piece("7", "suffix", 1)) == f"{first}7\033[0m"
    assert painter.legend() == f"guessed by {first}suffix\033[0m, {second}model\033[0m"


@pytest.mark.parametrize(("force", "no_color"), [(None, None), ("1", "1"), (None, "1")])
def test_without_a_terminal_with_colours_it_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, force: str | None, no_color: str | None
) -> None:
    for name, value in (("FORCE_COLOR", force), ("NO_COLOR", no_color)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="--show-drafts needs a terminal with colours; --stats gives the figures"):
        DraftPainter(model, last_id=5)


def test_the_speed_fits_a_line() -> None:
    assert speed_line(STATS) == "12 prompt tokens at 1234/s, 100 new at 98.8/s, peak 321 MB"


def test_the_figures_tell_of_each_drafter_and_where_the_time_went() -> None:
    assert stats_table(STATS).splitlines() == [
        "40 model calls, 2.50 tokens each",
        "suffix       20 drafts,    80 tokens guessed,    55 accepted (69%)",
        "model         4 drafts,    12 tokens guessed,     3 accepted (25%)",
        "ms: draft 1.0, model 200.0, accept 10.2, other 30.0",
    ]


def test_the_figures_of_a_text_add_up(model: Model) -> None:
    language_model = LanguageModel(model)
    for _ in range(2):
        made: Generation = language_model.generate(PROMPT, decode="suffix", max_new_tokens=24)
    stats = made.stats
    (drafter,) = stats.drafters.values()
    assert stats.new_tokens == stats.model_calls + drafter.accepted
    assert 0 < drafter.accepted <= drafter.drafted
    assert f"{stats.model_calls} model calls, {stats.tokens_per_call:.2f} tokens each" in stats_table(stats)
