"""How long a text may be by default: what the memory allows, which changes no text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st

from skipstone.conversation import Conversation
from skipstone.devices import CpuDevice
from skipstone.errors import CacheFull, DeviceError
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import LayerCache
from skipstone.runtime.engine import Model, Room, cache_bytes, cache_layouts, memory_told, most_tokens
from skipstone.suggester import Suggester

MIB = 1 << 20
LAYERS = (LayerCache(num_heads=2, head_size=16, dtype="float32"), LayerCache(num_heads=4, head_size=8, dtype="float16"))
PROMPT = "def add(first"


@dataclass(frozen=True, slots=True, kw_only=True)
class TightDevice(CpuDevice):
    """The processor, with as much memory as we say."""

    left: int | None

    def free_bytes(self) -> int | None:
        return self.left


@pytest.fixture(scope="module")
def roomy(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    """A tiny model that sees 2,048 tokens."""
    return Model.open(make_bundle(make_checkpoint("llama", max_position_embeddings=2048)))


def tight(model: Model, left: int | None) -> Model:
    return Model(model.bundle, TightDevice(threads=1, left=left))


def left_for(model: Model, num_tokens: int) -> int:
    """Return the free memory that allows so many tokens, of models that keep the least for calls."""
    return cache_bytes(model.manifest.cache, num_tokens) + 64 * MIB


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 17))
def test_what_memory_allows_fits_with_a_margin_and_the_next_step_does_not(left: int, limit: int) -> None:
    allowed = most_tokens(LAYERS, left, limit=limit)
    assert 1 <= allowed <= limit
    assert allowed == limit or allowed % 256 == 0
    budget = left - max(64 * MIB, left // 10)
    if allowed > 256:
        assert cache_bytes(LAYERS, allowed) <= budget
    if allowed < limit:
        assert cache_bytes(LAYERS, min(limit, allowed + 256)) > budget


@given(st.integers(0, 1 << 36), st.integers(0, 1 << 36))
def test_more_memory_never_allows_less(first: int, second: int) -> None:
    few, many = sorted((first, second))
    assert most_tokens(LAYERS, few, limit=100_000) <= most_tokens(LAYERS, many, limit=100_000)


def test_a_room_says_why_it_is_less_than_the_model_sees() -> None:
    room = Room(limit=8192, allowed=3072, left=410_000_000, cache_type="float32")
    assert room.num_tokens == 3072
    assert room.told == "context 3,072 of 8,192 tokens: what 410 MB of free memory allow with the fp32 cache"
    longer = replace(room, wanted=5000, cache_type="int8", num_rows=3)
    assert longer.num_tokens == 5000
    assert longer.told == (
        "context 5,000 of 8,192 tokens for each of 3 texts, as prompt and answer need; 410 MB of free memory allow "
        "only 3,072 with the int8 cache"
    )
    assert replace(room, allowed=8192).told is None


def test_where_nobody_tells_the_memory_it_is_the_models_whole_context(roomy: Model) -> None:
    room = tight(roomy, None).room()
    assert (room.num_tokens, room.told) == (roomy.manifest.context_length, None)


def test_a_prompt_that_the_model_can_see_is_never_refused(roomy: Model) -> None:
    long_prompt = PROMPT * 60
    wanted = LanguageModel(roomy).generate(long_prompt, max_new_tokens=8)
    assert len(roomy.tokenizer.encode(long_prompt)) > 256
    assert LanguageModel(tight(roomy, 0)).generate(long_prompt, max_new_tokens=8).token_ids == wanted.token_ids


@pytest.mark.parametrize(
    ("decode", "exact"), [("plain", True), ("plain", False), ("ngram", True), ("lookahead", False), ("auto", None)]
)
def test_a_text_is_the_same_whatever_the_memory_says(roomy: Model, decode: str, exact: bool | None) -> None:
    options = {"max_new_tokens": 24, "decode": decode, "exact": exact}
    wanted = LanguageModel(roomy).generate(PROMPT, **options).token_ids
    for left in (0, left_for(roomy, 700)):
        assert LanguageModel(tight(roomy, left)).generate(PROMPT, **options).token_ids == wanted


def test_batches_samples_and_drafts_are_the_same_too(roomy: Model) -> None:
    prompts, options = [PROMPT, "class Stack"], {"max_new_tokens": 8, "exact": False}
    plain, less = LanguageModel(roomy), LanguageModel(tight(roomy, 0))
    for one, other in zip(plain.generate(prompts, **options), less.generate(prompts, **options), strict=True):
        assert one.token_ids == other.token_ids
    drawn = [[text.token_ids for text in m.samples(PROMPT, 3, temperature=1.0, seed=5)] for m in (plain, less)]
    assert drawn[0] == drawn[1]
    assert [draft.text for draft in plain.suggest(PROMPT)] == [draft.text for draft in less.suggest(PROMPT)]


def test_the_price_names_the_type_of_cache_and_what_less_there_is(roomy: Model) -> None:
    int8 = tuple(replace(layer, dtype="int8") for layer in roomy.manifest.cache)
    both = replace(roomy.manifest, other_caches={"int8": int8}, variants={"cache-int8": {}})
    assert memory_told(roomy.manifest, "float32", 2000) == "2.0 MB in the fp32 cache"
    assert memory_told(both, "float32", 2000, num_rows=2) == "4.1 MB in the fp32 cache (1.0 MB with --cache int8)"
    assert memory_told(both, "int8", 2000) == "0.5 MB in the int8 cache"
    assert list(cache_layouts(replace(both, cache_type="int8"))) == ["int8", "float32"]


def test_several_texts_share_the_memory(roomy: Model) -> None:
    one = tight(roomy, left_for(roomy, 400)).room()
    four = tight(roomy, left_for(roomy, 400)).room(num_rows=4)
    assert one.num_tokens == 256 and four.num_tokens == 256 and roomy.manifest.context_length > 400
    assert tight(roomy, left_for(roomy, 4 * 300)).room(num_rows=4).allowed == 256
    assert tight(roomy, left_for(roomy, 4 * roomy.manifest.context_length)).room(num_rows=4).told is None


def test_a_talk_and_drafts_while_typing_take_the_default_and_refuse_with_its_price(roomy: Model) -> None:
    less = tight(roomy, 0)
    talk = Conversation(less)
    assert talk.context_length == 256
    with pytest.raises(CacheFull, match=r"raise --context up to \d+ \(\d+ tokens take [\d.]+ MB in the fp32 cache\)"):
        list(talk.stream(PROMPT * 60))
    assert Conversation(less, context_length=400).context_length == 400
    model = LanguageModel(less)
    assert isinstance(model.suggester(), Suggester)
    with pytest.raises(CacheFull, match=r"raise the context up to \d+ \(--context, context_length\), which takes"):
        model.generate(PROMPT, context_length=16)


def test_memory_is_asked_for_once(roomy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(CpuDevice, "free_bytes", lambda device: asked.append(1) or 0)
    model = Model(roomy.bundle, roomy.device)
    assert {model.room().num_tokens, model.room(num_rows=3).num_tokens} == {256}
    assert len(asked) == 1


def test_a_cache_that_cannot_be_had_is_named_with_its_price(roomy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(roomy.bundle, roomy.device)

    def refuse(device: CpuDevice, shape: object, dtype: object) -> None:
        raise DeviceError("no memory")

    monkeypatch.setattr(CpuDevice, "allocate", refuse)
    with pytest.raises(
        DeviceError, match=r"no memory for 300 tokens of each of 2 texts, which take [\d.]+ MB in the fp32"
    ):
        model.new_cache(context_length=300, batch=2)
