"""A drafter with another tokenizer: the text stays the same, and what both models would say is guessed."""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tokenizers
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from vocabularies import byte_level, full_text, sentencepiece

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import PlainDrafter, Step, decode
from skipstone.runtime.decoding.verify import rule_named
from skipstone.runtime.engine import Draft, Model, SharedStores
from skipstone.runtime.methods import DrafterContext
from skipstone.runtime.methods.small_model import LEAST_SHARE, Mirror, open_foreign
from skipstone.runtime.sampling import Sampler, SamplingOptions
from skipstone.runtime.text import SharedVocabulary, Spelling, Tokenizer, num_unfinished_bytes

pytestmark = pytest.mark.filterwarnings("error")  # a drafter that fails is left out with a warning

GREEDY = SamplingOptions()
SAMPLED = SamplingOptions(temperature=0.9, top_k=40, seed=3)
PENALISED = SamplingOptions(temperature=1.0, repetition_penalty=1.3, presence_penalty=0.4, no_repeat_ngram=3, seed=5)
WORDS = ("▁the", "▁and", "▁return", "er", "in", "self", "▁def", "▁x")
PROMPTS = [
    "the fox and the egg",
    "def add(x, y):\n    return ",
    "naïve 猫が好き 🦊",
    "😀👩‍👩‍👧 e\u0301\u2028 \ud7ff",
    " ",
    "x",
]
ASCII = [" ", "\n", *map(chr, range(0x21, 0x7F))]


def letters(order: Sequence[int]) -> Tokenizer:
    """Every letter of ASCII is a token, and nothing else: any tokens are what encoding their text gives."""
    spelled = [{" ": "Ġ", "\n": "Ċ"}.get(ASCII[index], ASCII[index]) for index in order]
    backend = tokenizers.Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(spelled)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


ORDER = np.random.default_rng(0).permutation(len(ASCII))
LETTERS, PERMUTED = letters(range(len(ASCII))), letters(ORDER.tolist())
BYTES, OTHER_BYTES = byte_level(300), byte_level(307, corpus="the end of self and the x in return")
PIECES = sentencepiece(*WORDS)


@pytest.fixture(scope="session")
def make_model(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Model]:
    """Return a random model with a tokenizer; `order` says which of its tokens each new token is."""

    def make(tokenizer: Tokenizer, *, order: Sequence[int] | None = None, padding: int = 0, **config: object) -> Model:
        checkpoint = make_checkpoint(vocab_size=tokenizer.vocab_size + padding, num_hidden_layers=1, **config)
        folder = tmp_path_factory.mktemp("foreign") / "checkpoint"
        shutil.copytree(checkpoint, folder)
        tokenizer.backend.save(str(folder / "tokenizer.json"))
        if order is not None:
            weights = load_file(folder / "model.safetensors")
            for name in ("model.embed_tokens.weight", "lm_head.weight"):
                weights[name] = np.ascontiguousarray(weights[name][list(order)])
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return Model.open(make_bundle(folder))

    return make


@pytest.fixture(scope="session")
def twins(make_model: Callable[..., Model]) -> Model:
    """A target whose drafter has the same weights under other ids."""
    return with_drafter(make_model(LETTERS), make_model(PERMUTED, order=ORDER.tolist()))


@pytest.fixture(scope="session")
def strangers(make_model: Callable[..., Model]) -> dict[str, Model]:
    """Targets with drafters of other weights and other tokenizers."""
    target, other, pieces = make_model(BYTES, padding=4), make_model(OTHER_BYTES), make_model(PIECES)
    mixed = make_model(LETTERS)
    return {
        "bytes for bytes": with_drafter(target, other),
        "pieces for bytes": with_drafter(target, pieces),
        "bytes for pieces": with_drafter(pieces, target),
        "pieces for letters": with_drafter(mixed, pieces),
    }


def with_drafter(model: Model, drafter: Model | None) -> Model:
    pair = copy.copy(model)
    pair.shared = SharedStores()
    pair.shared.get("draft model", lambda: drafter)
    return pair


def context_for(model: Model, prompt: Sequence[int], options: SamplingOptions, rule: str) -> DrafterContext:
    sampler = Sampler.from_options(options, stop_ids=(), num_prompt_tokens=len(prompt))
    sequence = model.new_sequence()
    sequence.append(prompt)
    return DrafterContext(model=model, sampler=sampler, sequence=sequence, rule=rule)


def run(
    model: Model, prompt: Sequence[int], *, options: SamplingOptions = GREEDY, rule: str = "match", num: int = 16
) -> tuple[list[int], list[Step]]:
    """Return the text and the steps with a foreign drafter, which is in step whenever it drafted."""
    context = context_for(model, prompt, options, rule)
    drafter = open_foreign(context)
    steps = decode_all(context, drafter, num)
    return context.sequence.token_ids, steps


def decode_all(context: DrafterContext, drafter: object, num: int) -> list[Step]:
    accept = rule_named(context.rule, context.sampler, context.sequence.token_ids)
    return list(decode(context.sequence, drafter=drafter, accept=accept, max_new_tokens=num, stop_ids=()))


def plain(model: Model, prompt: Sequence[int], options: SamplingOptions = GREEDY, num: int = 16) -> list[int]:
    context = context_for(model, prompt, options, "match")
    decode_all(context, PlainDrafter(), num)
    return context.sequence.token_ids


def accepted_share(steps: Sequence[Step]) -> float:
    drafted = sum(step.num_drafted for step in steps)
    assert drafted > 0
    return sum(len(step.token_ids) - 1 for step in steps) / drafted


# The text


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize("name", ["bytes for bytes", "pieces for bytes", "bytes for pieces", "pieces for letters"])
def test_a_foreign_drafter_changes_no_text(strangers: dict[str, Model], name: str, options: SamplingOptions) -> None:
    model = strangers[name]
    num_drafted = 0
    for text in PROMPTS:
        prompt = model.tokenizer.encode(text) or [3]
        made, steps = run(model, prompt, options=options)
        assert made == plain(model, prompt, options)
        num_drafted += sum(step.num_drafted for step in steps)
    assert num_drafted > 0


@given(text=full_text)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_foreign_drafter_changes_no_text_after_any_prompt(strangers: dict[str, Model], text: str) -> None:
    for model in (strangers["pieces for bytes"], strangers["bytes for pieces"]):
        prompt = model.tokenizer.encode(text) or [3]
        for options in (GREEDY, SAMPLED):
            assert run(model, prompt, options=options, num=6)[0] == plain(model, prompt, options, num=6)


@pytest.mark.parametrize("name", ["bytes for bytes", "pieces for bytes", "bytes for pieces", "pieces for letters"])
def test_greedy_text_is_the_same_under_every_rule(strangers: dict[str, Model], name: str) -> None:
    prompt = strangers[name].tokenizer.encode("the end")
    for rule in ("rejection", "k-seq"):
        assert run(strangers[name], prompt, rule=rule)[0] == plain(strangers[name], prompt)


@pytest.mark.parametrize("name", ["bytes for bytes", "pieces for bytes", "bytes for pieces"])
def test_drafts_by_token_are_drawn_and_judged_without_a_failure(strangers: dict[str, Model], name: str) -> None:
    prompt = strangers[name].tokenizer.encode("the fox 🦊")
    text, steps = run(strangers[name], prompt, options=SAMPLED, rule="rejection", num=40)
    assert len(text) == len(prompt) + 40
    assert sum(step.num_drafted for step in steps) > 0


# What is guessed


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
def test_what_a_twin_with_other_ids_drafts_by_text_is_accepted(twins: Model, options: SamplingOptions) -> None:
    prompt = LETTERS.encode("the fox")
    text, steps = run(twins, prompt, options=options, num=60)
    assert text == plain(twins, prompt, options, num=60)
    assert accepted_share(steps) > 0.95
    assert len(steps) <= 12


def test_what_a_twin_with_other_ids_draws_by_token_is_accepted(twins: Model) -> None:
    _, steps = run(twins, LETTERS.encode("the fox"), options=SAMPLED, rule="rejection", num=60)
    assert accepted_share(steps) > 0.95
    assert len(steps) <= 10


def test_ids_that_are_taken_as_they_are_would_not_be_accepted(twins: Model) -> None:
    """The negative control of the two tests above: the same weights without a translation."""
    assert twins.draft_model is not None
    wrong = copy.copy(twins.draft_model)
    wrong.tokenizer = LETTERS
    _, steps = run(with_drafter(twins, wrong), LETTERS.encode("the fox"), num=60)
    assert accepted_share(steps) < 0.3


# The law of what is drawn


def masked_laws(context: DrafterContext, draft: Draft) -> list[np.ndarray]:
    """The obvious way: the drafter's softmax, without what the target does not have, moved and renormalised, [N, V].

    The same calls as in drafting, so the same bits.
    """
    drafter, target = context.model.draft_model, context.model
    assert drafter is not None
    sequence = drafter.new_sequence()
    sequence.append(drafter.tokenizer.encode(target.tokenizer.decode(context.sequence.token_ids)))
    mine = {Spelling(drafter.tokenizer).of(i): i for i in reversed(range(drafter.tokenizer.vocab_size))}
    laws = []
    for guess in draft.token_ids:
        logits = sequence.extend(Draft.empty())[0].astype(np.float64)
        law = np.zeros(target.manifest.dimensions.vocab_size)
        for token_id in range(target.tokenizer.vocab_size):
            data = Spelling(target.tokenizer).of(token_id)
            if data and data in mine:
                law[token_id] = np.exp(logits[mine[data]] - logits.max()) / np.exp(logits - logits.max()).sum()
        laws.append(law)
        sequence.commit([mine[Spelling(target.tokenizer).of(guess)]])
    return laws


@pytest.fixture(scope="session")
def drawn(strangers: dict[str, Model]) -> tuple[DrafterContext, Draft]:
    """A draft by token of two byte-level vocabularies, without temperature or truncation."""
    model = strangers["bytes for bytes"]
    context = context_for(model, model.tokenizer.encode("the fox and"), SamplingOptions(temperature=1.0), "rejection")
    draft = open_foreign(context).propose(context.sequence.token_ids, limit=6)
    assert len(draft) == 6
    return context, draft


def test_a_guess_by_token_is_drawn_from_the_masked_and_renormalised_law(drawn: tuple[DrafterContext, Draft]) -> None:
    context, draft = drawn
    assert len(draft.laws) == 1 + len(draft) and draft.laws[-1] is None
    for law, masked, guess in zip(draft.laws, masked_laws(context, draft), draft.token_ids, strict=False):
        assert law is not None
        assert law.sum() == pytest.approx(1.0, abs=1e-12)
        assert np.allclose(law, masked / masked.sum(), rtol=1e-9, atol=1e-15)
        assert ((law > 0) == (masked > 0)).all()
        assert law[guess] > 0


def test_a_law_that_was_not_renormalised_would_be_noticed(drawn: tuple[DrafterContext, Draft]) -> None:
    """The negative control of the test above."""
    for law, masked in zip(drawn[1].laws, masked_laws(*drawn), strict=False):
        assert law is not None
        assert masked.sum() < 0.99
        assert not np.allclose(law, masked, rtol=1e-3)


def test_nothing_is_drawn_where_most_of_the_probability_is_not_shared(strangers: dict[str, Model]) -> None:
    model = strangers["pieces for letters"]
    context = context_for(model, LETTERS.encode("the end"), SamplingOptions(temperature=1.0), "rejection")
    assert len(open_foreign(context).propose(context.sequence.token_ids, limit=4)) == 0
    assert model.draft_model is not None
    sequence = model.draft_model.new_sequence()
    sequence.append(PIECES.encode("the end"))
    weights = np.exp(sequence.extend(Draft.empty())[0])
    shared = SharedVocabulary.of(
        Spelling(LETTERS), Spelling(PIECES), target_size=len(ASCII), drafter_size=PIECES.vocab_size
    )
    assert shared.share(weights) < LEAST_SHARE


def test_the_draft_of_another_round_is_drawn_with_other_noise(twins: Model) -> None:
    context = context_for(twins, LETTERS.encode("aaaa"), SamplingOptions(temperature=50.0), "rejection")
    drafts = [open_foreign(context).propose([3] * length, limit=4).token_ids for length in (4, 5, 6)]
    assert len(set(drafts)) == 3


# How much is drafted, and how sure


@pytest.mark.parametrize("rule", ["match", "rejection"])
@pytest.mark.parametrize("limit", [1, 2, 7, 8, 50])
def test_a_draft_keeps_to_its_limit_and_to_eight_calls(twins: Model, rule: str, limit: int) -> None:
    context = context_for(twins, LETTERS.encode("the fox"), SAMPLED, rule)
    draft = open_foreign(context).propose(context.sequence.token_ids, limit=limit)
    assert len(draft) == min(limit, 7 if rule == "match" else 8)  # by text, the last token is not sure
    assert draft.source == "model" and draft.is_chain and len(draft.levels) == len(draft)
    assert set(draft.levels) <= set(range(10))


@pytest.mark.parametrize("rule", ["match", "rejection"])
def test_a_draft_stops_where_its_guesses_become_unlikely(twins: Model, rule: str) -> None:
    def draft(min_chance: float) -> tuple[int, ...]:
        context = context_for(twins, LETTERS.encode("the fox"), SamplingOptions(temperature=0.3, seed=1), rule)
        return open_foreign(context).propose(context.sequence.token_ids, limit=9, min_chance=min_chance).token_ids

    drafts = [draft(chance) for chance in (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.1)]
    assert drafts[0] and not drafts[-1]
    assert len({len(tokens) for tokens in drafts}) > 2
    for more, less in itertools.pairwise(drafts):
        assert more[: len(less)] == less


def test_the_chance_of_letters_is_carried_over_to_the_tokens_that_spell_them(
    make_model: Callable[..., Model], twins: Model
) -> None:
    """The drafter says letters, the target has words of them: a word is as sure as its letters together."""
    context = context_for(with_drafter(twins, twins.draft_model), LETTERS.encode("the fox"), GREEDY, "match")
    letters_draft = open_foreign(context).propose(context.sequence.token_ids, limit=7)
    said = LETTERS.decode(letters_draft.token_ids)
    words = byte_level(300, corpus=(said[:4] + " " + said[4:] + " ") * 9, special=())
    target = with_drafter(make_model(words), twins.draft_model)
    context = context_for(target, words.encode("the fox"), GREEDY, "match")
    draft = open_foreign(context).propose(context.sequence.token_ids, limit=7)
    assert 0 < len(draft) < 7
    assert said.startswith(words.decode(draft.token_ids))
    num_letters = [len(words.decode([token_id])) for token_id in draft.token_ids]
    assert max(num_letters) > 1
    starts = [sum(num_letters[:index]) for index in range(len(num_letters))]
    for start, num, level in zip(starts, num_letters, draft.levels, strict=True):
        inside = letters_draft.levels[start : start + num]
        assert math.prod(each / 10 for each in inside) <= (level + 1) / 10
        assert level / 10 <= math.prod((each + 1) / 10 for each in inside)


def test_the_last_token_is_kept_where_the_drafter_ends_the_text(make_model: Callable[..., Model], twins: Model) -> None:
    prompt = LETTERS.encode("the fox")
    coming = plain(twins, prompt, num=7)[len(prompt) :]
    place = next(index for index in range(1, 7) if coming[index] not in {*coming[:index], *prompt})
    backend = tokenizers.Tokenizer.from_str(PERMUTED.backend.to_str())
    backend.add_special_tokens([str(LETTERS.piece(coming[place]))])  # the drafter says it, and means the end
    drafter = make_model(Tokenizer(backend), order=ORDER.tolist())
    context = context_for(with_drafter(twins, drafter), prompt, GREEDY, "match")
    draft = open_foreign(context).propose(context.sequence.token_ids, limit=20)
    assert list(draft.token_ids) == coming[:place]


# Where no draft can be made


def test_without_a_draft_model_the_drafter_cannot_be_opened(twins: Model) -> None:
    with pytest.raises(ConfigError, match="needs a small model, and the bundle has none"):
        open_foreign(context_for(with_drafter(twins, None), [1], GREEDY, "match"))


def test_chains_drawn_independently_are_refused(twins: Model) -> None:
    with pytest.raises(ConfigError, match="k-seq needs several; choose the rule rejection or match"):
        open_foreign(context_for(twins, [1], SAMPLED, "k-seq"))


def test_a_drafter_without_a_common_token_can_only_draft_by_text(make_model: Callable[..., Model]) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({f"▁{word}": i for i, word in enumerate("abc")}, unk_token="▁a"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    pair = with_drafter(make_model(LETTERS), make_model(Tokenizer(backend)))
    with pytest.raises(ConfigError, match="no token in common; choose the rule match"):
        open_foreign(context_for(pair, [1], SAMPLED, "rejection"))
    prompt = LETTERS.encode("x a b")
    text, steps = run(pair, prompt)
    assert text == plain(pair, prompt)
    assert sum(step.num_drafted for step in steps) > 0


def test_nothing_is_drawn_where_every_shared_token_is_banned(twins: Model) -> None:
    banned = SamplingOptions(temperature=1.0, banned_ids=tuple(range(len(ASCII))))
    context = context_for(twins, LETTERS.encode("the fox"), banned, "rejection")
    assert len(open_foreign(context).propose(context.sequence.token_ids, limit=4)) == 0


@pytest.mark.parametrize("rule", ["match", "rejection"])
def test_a_text_that_outgrows_the_drafters_context_goes_on_without_drafts(
    make_model: Callable[..., Model], twins: Model, rule: str
) -> None:
    drafter = make_model(PERMUTED, order=ORDER.tolist(), max_position_embeddings=32)
    pair, prompt = with_drafter(twins, drafter), LETTERS.encode("the fox")
    text, steps = run(pair, prompt, options=SAMPLED, rule=rule, num=60)
    assert len(text) == len(prompt) + 60
    assert sum(step.num_drafted for step in steps[:4]) > 0
    assert [step.num_drafted for step in steps[-20:]] == [0] * 20


def test_nothing_is_drafted_by_text_inside_a_character(strangers: dict[str, Model]) -> None:
    model, spelling = strangers["pieces for bytes"], Spelling(BYTES)
    ids = BYTES.encode("the fox 鸟 🦉")
    inside = [end for end in range(1, len(ids)) if num_unfinished_bytes(spelling.join(ids[:end]))]
    assert len(inside) >= 4
    drafter = open_foreign(context_for(model, ids, GREEDY, "match"))
    drafted = {end: len(drafter.propose(ids[:end], limit=7)) for end in range(1, len(ids) + 1)}
    assert not any(drafted[end] for end in inside)
    assert sum(map(bool, drafted.values())) > 2


# In step


def mirror_of(tokenizer: Tokenizer, model: Model, target: Tokenizer, **options: object) -> Mirror:
    return Mirror(model.new_sequence(), target=Spelling(target), own=Spelling(tokenizer), **options)


def texts_as_tokens(target: Tokenizer) -> st.SearchStrategy[list[int]]:
    return full_text.map(lambda text: target.encode(text)) | st.lists(
        st.integers(0, target.vocab_size - 1), max_size=30
    )


PAIRS = {
    "bytes for bytes": (BYTES, OTHER_BYTES),
    "pieces for bytes": (BYTES, PIECES),
    "bytes for pieces": (PIECES, OTHER_BYTES),
}


@pytest.mark.parametrize("by_token", [False, True], ids=["by text", "by token"])
@pytest.mark.parametrize("name", PAIRS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_drafter_was_told_reads_as_the_text_however_it_grows(
    strangers: dict[str, Model], name: str, by_token: bool, data: st.DataObject
) -> None:
    target, own = PAIRS[name]
    ids = data.draw(texts_as_tokens(target))
    drafter = strangers[name].draft_model
    assert drafter is not None
    shared = None
    if by_token:
        sizes = {"target_size": target.vocab_size, "drafter_size": own.vocab_size}
        shared = SharedVocabulary.of(Spelling(target), Spelling(own), **sizes)
    mirror, end = mirror_of(own, drafter, target, shared=shared), 0
    while end < len(ids):
        end += data.draw(st.integers(1, 6))
        if mirror.follow(ids[:end]):
            told = mirror.sequence.token_ids
            assert len(told) == mirror.num_told
            assert Spelling(own).text(told) == Spelling(target).text(ids[:end])
            wrong = data.draw(st.lists(st.integers(0, own.vocab_size - 1), max_size=4))
            mirror.sequence.append(wrong)  # drafted, and not to come true
        mirror.sequence.check()


@pytest.mark.parametrize("name", PAIRS)
def test_a_text_told_in_pieces_is_encoded_as_the_whole_text_is(strangers: dict[str, Model], name: str) -> None:
    """The slow obvious way is to encode all of it at every round."""
    target, own = PAIRS[name]
    drafter = strangers[name].draft_model
    assert drafter is not None
    ids = target.encode("def the_fox(x, y):\n    return x and self.y\n" * 2 + "naïve über 猫, the end of in and er.")
    for size in (1, 2, 5):
        mirror = mirror_of(own, drafter, target)
        in_step = [end for end in range(1, len(ids) + 1, size) if mirror.follow(ids[:end])]
        assert len(in_step) > len(ids) / size / 2
        mirror = mirror_of(own, drafter, target)
        for end in in_step:
            assert mirror.follow(ids[:end])
            assert mirror.sequence.token_ids == own.encode(target.decode(ids[:end]))


def test_what_was_drafted_and_came_true_is_not_fed_again(strangers: dict[str, Model]) -> None:
    drafter = strangers["bytes for pieces"].draft_model
    assert drafter is not None
    ids = PIECES.encode("the egg and the end of the fox")
    mirror = mirror_of(OTHER_BYTES, drafter, PIECES)
    whole = OTHER_BYTES.encode("the egg and the end of the fox")
    assert mirror.follow(ids[:5])
    for token_id in whole[len(mirror.sequence.token_ids) :]:
        mirror.sequence.extend(Draft.empty())
        mirror.sequence.commit([token_id])
    num_cached = mirror.sequence.num_cached
    assert mirror.follow(ids)
    assert mirror.sequence.token_ids == whole
    assert mirror.sequence.num_cached == num_cached == len(whole) - 1


def test_a_long_text_is_not_encoded_again_at_every_round(strangers: dict[str, Model]) -> None:
    lengths: list[int] = []

    class Counting(Tokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            lengths.append(len(text))
            return super().encode(text, add_special_tokens=add_special_tokens)

    drafter = strangers["bytes for pieces"].draft_model
    assert drafter is not None
    ids = PIECES.encode("the fox and the egg; " * 12)
    mirror = mirror_of(Counting(OTHER_BYTES.backend), drafter, PIECES)
    assert all(mirror.follow(ids[:end]) for end in range(20, len(ids)))
    assert max(lengths[1:]) < 70 < len(PIECES.decode(ids))
    assert len(lengths) == len(ids) - 20


def test_the_drafters_own_special_tokens_stand_at_the_beginning_and_nowhere_else(strangers: dict[str, Model]) -> None:
    backend = tokenizers.Tokenizer.from_str(OTHER_BYTES.backend.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    own, drafter = Tokenizer(backend), strangers["bytes for pieces"].draft_model
    assert drafter is not None
    mirror, ids = mirror_of(own, drafter, PIECES), [1, *PIECES.encode("the fox"), 2, *PIECES.encode("er in")]
    for end in range(1, len(ids) + 1):
        mirror.follow(ids[:end])
    assert mirror.sequence.token_ids[0] == 0
    assert not own.special_ids & set(mirror.sequence.token_ids[1:])
    assert own.decode(mirror.sequence.token_ids) == "the fox er in"


def test_a_tokenizer_that_rewrites_text_is_told_what_it_makes_of_it(strangers: dict[str, Model]) -> None:
    backend = tokenizers.Tokenizer.from_str(OTHER_BYTES.backend.to_str())
    backend.normalizer = normalizers.NFC()
    own, drafter = Tokenizer(backend), strangers["bytes for bytes"].draft_model
    assert drafter is not None
    ids = BYTES.encode("the cafe\u0301 and the e\u0301\u0301 end of the x")
    mirror = mirror_of(own, drafter, BYTES)
    followed = [end for end in range(1, len(ids) + 1) if mirror.follow(ids[:end])]
    assert followed[-1] == len(ids) and len(followed) > len(ids) - 8
    assert own.decode(mirror.sequence.token_ids) == "the caf\u00e9 and the \u00e9\u0301 end of the x"


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}], ids=["greedy", "sampled"])
def test_a_ban_of_all_shared_tokens_costs_guesses_only(strangers: dict[str, Model], options: dict[str, float]) -> None:
    model = strangers["bytes for pieces"]
    sizes = {"target_size": PIECES.vocab_size, "drafter_size": BYTES.vocab_size}
    shared = SharedVocabulary.of(Spelling(PIECES), Spelling(BYTES), **sizes)
    banned = SamplingOptions(banned_ids=tuple(shared.target_ids.tolist()), **options)
    prompt = PIECES.encode("the fox")
    assert run(model, prompt, options=banned)[0] == plain(model, prompt, banned)
