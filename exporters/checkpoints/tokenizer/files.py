"""A tokenizer.json from the older files of a checkpoint: tokenizer.model, or vocab.json with merges.txt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.files import blaming, read_json, reading, refuse_lfs_pointer
from skipstone.exporters.checkpoints.tokenizer.kinds import (
    GPT2_SPLIT,
    QWEN2_SPLIT,
    Spaces,
    byte_level_bpe,
    sentencepiece_bpe,
    unigram,
    with_special_tokens,
)
from skipstone.exporters.checkpoints.tokenizer.sentencepiece import Piece, PieceKind, SentencePieceModel
from skipstone.exporters.checkpoints.tokenizer.settings import TokenizerSettings

__all__ = ["build"]

_SAVE: Final = "save it with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
_END_OF_TEXT: Final = "<|endoftext|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByteLevelClass:
    """What a tokenizer class of transformers adds to vocab.json and merges.txt."""

    split: str = GPT2_SPLIT
    nfc: bool = False
    bos: str | None = _END_OF_TEXT


_BYTE_LEVEL: Final[Mapping[str, _ByteLevelClass]] = {
    "GPT2Tokenizer": _ByteLevelClass(),
    "CodeGenTokenizer": _ByteLevelClass(),
    "GPTNeoXTokenizer": _ByteLevelClass(nfc=True),
    "Qwen2Tokenizer": _ByteLevelClass(split=QWEN2_SPLIT, nfc=True, bos=None),
}
# for folders that name no class
_CLASS_OF: Final[Mapping[str, str]] = {
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
}
_SENTENCEPIECE: Final = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
_NO_CLASS: Final = (None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")


def build(folder: Path, config: Mapping[str, Any]) -> bytes:
    """The text of a tokenizer.json that gives the ids of the tokenizer whose files `folder` holds.

    `config` is config.json. A SentencePiece vocabulary puts its first token before a text unless the files say
    otherwise, a byte-level one does not.
    Raises: CheckpointError for files that are missing or damaged, UnsupportedModel for a tokenizer that is not known.
    """
    with blaming(folder):
        present = {path.name for path in folder.iterdir()}
    settings = TokenizerSettings.read(folder)
    if "tokenizer.model" in present:
        tokenizer = _from_sentencepiece(folder / "tokenizer.model", settings, config)
    elif {"vocab.json", "merges.txt"} <= present:
        tokenizer = _from_vocabulary(folder, settings, config)
    else:
        raise CheckpointError(f"{folder} has no tokenizer.json, no tokenizer.model, and no vocab.json with merges.txt")
    return tokenizer.to_str().encode()


def _from_sentencepiece(path: Path, settings: TokenizerSettings, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    _require_class(path, settings.tokenizer_class, _SENTENCEPIECE)
    refuse_lfs_pointer(path)
    with reading(path) as file:
        data = file.readall()
    with _blaming_content(path):
        model = SentencePieceModel.parse(data)
        names = _placed(dict(enumerate(piece.text for piece in model.pieces)), settings.placed)
        make = {"BPE": sentencepiece_bpe, "Unigram": unigram}[model.algorithm]
        pieces = _pieces(model.pieces, names, settings.placed)
        tokenizer = make(pieces, spaces=_spaces(model, settings), charsmap=model.charsmap)
        bos, eos = settings.text_of("bos_token") or model.bos, settings.text_of("eos_token") or model.eos
        placed = {token_id: _escaped(token) for token_id, token in settings.placed.items()}
        return _finished(tokenizer, replace(settings, placed=placed), config, bos=bos, eos=eos, add_bos=True)


def _escaped(token: AddedToken) -> AddedToken:
    """The token, looked for in the text whose spaces are written as U+2581 if it holds one (Gemma's runs of spaces)."""
    if "▁" not in token.content or token.special:
        return token
    flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip}
    return AddedToken(token.content, normalized=True, special=False, **flags)


def _spaces(model: SentencePieceModel, settings: TokenizerSettings) -> Spaces:
    if not settings.switches.get("add_prefix_space", model.dummy_prefix):
        return Spaces(prefix="never", squeeze=model.squeeze_spaces)
    return Spaces(prefix="always" if settings.switches.get("legacy") else "first", squeeze=model.squeeze_spaces)


def _pieces(pieces: Sequence[Piece], names: Mapping[int, str], tokens: Mapping[int, AddedToken]) -> list[Piece]:
    """The pieces under their final names, with the tokens behind them."""
    behind = sorted(token_id for token_id in names if token_id >= len(pieces))
    for free, token_id in enumerate(behind, start=len(pieces)):
        if token_id != free:
            raise CheckpointError(
                f"the added token {names[token_id]!r} has the id {token_id}, the next free one is {free}"
            )
    placed = []
    for token_id, text in sorted(names.items()):
        if token_id < len(pieces) and pieces[token_id].text == text:
            placed.append(pieces[token_id])
        else:
            kind = PieceKind.CONTROL if tokens[token_id].special else PieceKind.USER_DEFINED
            placed.append(Piece(text=text, kind=kind))
    return placed


def _from_vocabulary(folder: Path, settings: TokenizerSettings, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    vocab_path, merges_path = folder / "vocab.json", folder / "merges.txt"
    name = settings.tokenizer_class
    if name in _NO_CLASS:
        name = _CLASS_OF.get(config.get("model_type", ""))
        if name is None:
            raise UnsupportedModel(f"{folder} does not say which tokenizer its vocab.json is for; {_SAVE}")
    _require_class(vocab_path, name, tuple(_BYTE_LEVEL))
    kind = _BYTE_LEVEL[name.removesuffix("Fast")]
    vocab = read_json(vocab_path)
    ids = {token_id for token_id in vocab.values() if type(token_id) is int and token_id >= 0}
    if not vocab or len(ids) < len(vocab):
        raise CheckpointError(f"{vocab_path}: expected an object from tokens to ids, each id once")
    with _blaming_content(vocab_path):
        names = _placed({token_id: token for token, token_id in vocab.items()}, settings.placed)
    with _blaming_content(merges_path):
        tokenizer = byte_level_bpe(
            {token: token_id for token_id, token in names.items()},
            _read_merges(merges_path),
            splits=(kind.split,),
            nfc=kind.nfc,
            add_prefix_space=settings.switches.get("add_prefix_space", False),
        )
    bos, eos = settings.text_of("bos_token") or kind.bos, settings.text_of("eos_token") or _END_OF_TEXT
    with _blaming_content(vocab_path):
        return _finished(tokenizer, settings, config, bos=bos, eos=eos, add_bos=False)


def _require_class(path: Path, name: str | None, known: Sequence[str]) -> None:
    if name not in _NO_CLASS and name is not None and name.removesuffix("Fast") not in known:
        raise UnsupportedModel(f"{path}: tokenizer_class {name} is not known, {', '.join(known)} are; {_SAVE}")


def _read_merges(path: Path) -> list[tuple[str, str]]:
    with reading(path) as file:
        lines = file.readall().decode("utf-8").split("\n")  # not splitlines: a merge may hold other line ends
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.removesuffix("\r").partition(" ")
        if not left or not right or " " in right:
            raise CheckpointError(f"line {number} should be two tokens with a space between, found {line!r}")
        merges.append((left, right))
    return merges


def _placed(names: Mapping[int, str], tokens: Mapping[int, AddedToken]) -> dict[int, str]:
    """The texts of the ids, after the settings had their say: they may rename a token or put new ones behind."""
    placed = {**names, **{token_id: token.content for token_id, token in tokens.items()}}
    ids: dict[str, int] = {}
    for token_id, text in placed.items():
        if ids.setdefault(text, token_id) != token_id:
            raise CheckpointError(f"the token {text!r} has two ids, {ids[text]} and {token_id}")
    return placed


def _finished(
    tokenizer: tokenizers.Tokenizer,
    settings: TokenizerSettings,
    config: Mapping[str, Any],
    *,
    bos: str | None,
    eos: str | None,
    add_bos: bool,
) -> tokenizers.Tokenizer:
    """The tokenizer with its added tokens, and with what goes around a text.

    A token that the files name but give no id comes behind the others. Where the model has no row left for it, it is
    left out: no prompt could use it.
    """
    ends = [AddedToken(text, special=True) for text in (bos, eos) if text and tokenizer.token_to_id(text) is not None]
    tokens: dict[str, AddedToken] = {}
    for token in (*settings.placed.values(), *settings.named.values(), *ends):
        tokens.setdefault(token.content, token)
    new = [text for text in tokens if tokenizer.token_to_id(text) is None]
    num_rows = (config.get("text_config") or config).get("vocab_size")
    room = max(0, num_rows - tokenizer.get_vocab_size()) if isinstance(num_rows, int) else len(new)
    first = bos if settings.switches.get("add_bos_token", add_bos) else None
    last = eos if settings.switches.get("add_eos_token", False) else None
    for text in (first, last):
        if text is not None and text not in set(tokens).difference(new[room:]):
            raise CheckpointError(f"{text!r} should go around every text, but is no token of the vocabulary")
    kept = [token for text, token in tokens.items() if text not in new[room:]]
    return with_special_tokens(tokenizer, kept, first=first, last=last)


@contextmanager
def _blaming_content(path: Path) -> Iterator[None]:
    """Name the file in our errors, and in those of the tokenizers library, which raises plain Exception."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:
        raise CheckpointError(f"{path}: damaged, or no tokenizer that is known ({error})") from error
