"""Whether a checkpoint can draft for another: what would not work or not pay is refused before a weight is read."""

from __future__ import annotations

from dataclasses import replace

import tokenizers

from skipstone.errors import ConfigError
from skipstone.exporters.export import ExportPlan
from skipstone.runtime.bundle import decoder_steps

__all__ = ["with_draft_model"]

# Below this share of the draft model's tokens the two write different languages, or one writes no language.
LEAST_SHARED = 0.05


def with_draft_model(target: ExportPlan, draft_model: ExportPlan) -> ExportPlan:
    """Return the plan of one bundle with both models, with remarks on the pair; any pair gives the same text.

    Raises: ConfigError when the draft model is the target, carries another, is too large, or shares too little text.
    Cost: reads both tokenizers, unless their files are equal.
    """
    pair = f"{draft_model.checkpoint.source} cannot draft for {target.checkpoint.source}"
    if draft_model.checkpoint.path.resolve() == target.checkpoint.path.resolve():
        raise ConfigError(f"{pair}: they are the same checkpoint; name a smaller one")
    if draft_model.draft_model is not None:
        raise ConfigError(f"{pair}: it carries a draft model of its own; plan it without one")
    if 2 * draft_model.num_parameters >= target.num_parameters:
        sizes = f"{draft_model.num_parameters / 1e6:.2f} M parameters, the target {target.num_parameters / 1e6:.2f} M"
        raise ConfigError(
            f"{pair}: it has {sizes}, and a draft model that large cannot pay; take one below half the size"
        )
    of_draft = (f"of the draft model: {remark}" for remark in draft_model.checkpoint.remarks)
    of_pair = (*_context_remarks(target, draft_model), *_tokenizer_remarks(target, draft_model, pair))
    remarks = (*target.remarks, *of_draft, *of_pair)
    return replace(target, draft_model=draft_model, remarks=remarks)


def _context_remarks(target: ExportPlan, draft_model: ExportPlan) -> list[str]:
    own, needed = draft_model.architecture.context_length, target.architecture.context_length
    if own >= needed:
        return []
    return [f"the draft model sees {own} tokens and the target {needed}: in a longer text it stops drafting"]


def _tokenizer_remarks(target: ExportPlan, draft_model: ExportPlan, pair: str) -> list[str]:
    files = [plan.checkpoint.texts["tokenizer.json"] for plan in (target, draft_model)]
    if files[0] != files[1]:
        theirs, own = (tokenizers.Tokenizer.from_buffer(file) for file in files)
        if not _are_equal(theirs, own, num_rows=draft_model.architecture.dimensions.vocab_size):
            return [_remark_on_text(theirs, own, pair)]
    if set(draft_model.roles.stop_ids) == set(target.roles.stop_ids):
        return []
    both = (
        f"{_listed(draft_model.roles.stop_ids)} in the draft model and {_listed(target.roles.stop_ids)} in the target"
    )
    return [f"the tokens that end a text differ, {both}: those of the target hold"]


def _are_equal(theirs: tokenizers.Tokenizer, own: tokenizers.Tokenizer, *, num_rows: int) -> bool:
    """Whether every token has the same id and role in both, but for those that the draft model has no row for."""
    vocabularies = [tokenizer.get_vocab(with_added_tokens=True) for tokenizer in (theirs, own)]
    if vocabularies[0] == vocabularies[1] and _special_ids(theirs) == _special_ids(own):
        return True
    known = {token: token_id for token, token_id in vocabularies[0].items() if token_id < num_rows}
    special_ids = {token_id for token_id in _special_ids(theirs) if token_id < num_rows}
    return known == vocabularies[1] and special_ids == _special_ids(own)


def _special_ids(tokenizer: tokenizers.Tokenizer) -> set[int]:
    return {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def _remark_on_text(theirs: tokenizers.Tokenizer, own: tokenizers.Tokenizer, pair: str) -> str:
    """Return the remark on a pair that can share text only. Raises: ConfigError where not even that."""
    for whose, tokenizer in (("the draft model", own), ("the target", theirs)):
        steps = decoder_steps(tokenizer)
        # The kinds of which runtime/text/vocabulary.py knows what each token spells.
        if steps != ("ByteLevel",) and not {"Metaspace", "Replace"} & set(steps):
            raise ConfigError(
                f"{pair}: the tokenizers differ, so drafts have to go through text, and the decoder of {whose} is "
                f"{' + '.join(steps) or 'missing'} where ByteLevel alone, Metaspace or Replace is wanted; "
                "take a draft model with the target's tokenizer"
            )
    words = _words(own)
    shared = len(words & _words(theirs)) / max(len(words), 1)
    if shared < LEAST_SHARED:
        raise ConfigError(
            f"{pair}: of its tokens {shared:.1%} are tokens of the target, and {LEAST_SHARED:.0%} are wanted; "
            "take a draft model of the target's family"
        )
    return f"the tokenizers differ, {shared:.0%} of the draft model's tokens are shared: drafts go through text"


def _words(tokenizer: tokenizers.Tokenizer) -> set[str]:
    """Return the ordinary tokens, with spaces: byte-level BPE has a letter for a space, SentencePiece another."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    ordinary = tokenizer.get_vocab(with_added_tokens=False).keys() - added
    return {token.replace("Ġ", " ").replace("▁", " ") for token in ordinary}


def _listed(token_ids: tuple[int, ...]) -> str:
    return ", ".join(map(str, token_ids)) or "none"
