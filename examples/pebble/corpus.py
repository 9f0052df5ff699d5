"""The text that pebble learns: the standard library of the running CPython (PSF licence), as token ids.

A module is held out, whole and for ever, when a hash of its name says so; nothing else decides.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
# Tables of characters and generated data: megabytes with nothing to learn from.
LEFT_OUT = (
    "encodings/",
    "pydoc_data/",
    "lib2to3/tests/data",
    "test/cjkencodings",
    "test/tokenizedata",
    "site-packages/",
)
HELD_OUT_SHARE = 40


def is_held_out(name: str) -> bool:
    """Whether the module file `name` (relative, with slashes) is among the one in forty never trained on."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % HELD_OUT_SHARE == 0


def modules() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of every module of the standard library that is UTF-8 text, in order of name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(LEFT_OUT):
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def train_tokenizer(vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer trained on the modules that are not held out."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for name, text in modules() if not is_held_out(name))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, *, seed: int) -> np.ndarray:
    """Return the training modules in a seeded order, each ended by END_OF_TEXT (id 0), as uint16 [tokens]."""
    texts = [text for name, text in modules() if not is_held_out(name)]
    order = np.random.default_rng(seed).permutation(len(texts))
    encodings = tokenizer.encode_batch_fast([texts[index] for index in order])
    return np.concatenate([np.array([*encoding.ids, 0], dtype=np.uint16) for encoding in encodings])


def held_out_texts() -> list[str]:
    """Return the held-out modules' texts."""
    return [text for name, text in modules() if is_held_out(name) and text.strip()]
