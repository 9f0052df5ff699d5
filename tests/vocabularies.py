"""Tokenizers of small vocabularies, and what all their tokens say."""

from __future__ import annotations

from collections.abc import Collection

import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from skipstone.runtime.text import (
    Tokenizer,
)

TEXT = "the fox jumps over the lazy dog and the fox eats the egg; the end. Über naïve 猫 🦊\n    return the_fox\n"


full_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: "<" not in text)


def byte_level(
    size: int = 300, *, corpus: str = TEXT, special: Collection[str] = ("<s>", "</s>"), added: Collection[str] = ()
) -> Tokenizer:
    """Byte-level BPE as GPT-2 writes it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([corpus], trainer)
    backend.add_tokens(list(added))
    return Tokenizer(backend)


def sentencepiece(*words: str, added: Collection[str] = ()) -> Tokenizer:
    """BPE as Llama 2 writes it: U+2581 for a space, one put in front of a text, bytes where letters are missing.

    The letters are those of ASCII; each word is merged from the left, so all its beginnings are tokens too.
    """
    letters = ["▁", *map(chr, range(0x21, 0x7F))]
    merges = list(dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word))))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *letters]
    pieces += dict.fromkeys(left + right for left, right in merges)
    model = models.BPE(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens(list(added))
    return Tokenizer(backend)
