"""What the tokenizer.json of a bundle says about how tokens become text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

__all__ = ["decoder_steps"]


def decoder_steps(tokenizer: tokenizers.Tokenizer) -> tuple[str, ...]:
    """The decoder's steps by type, a sequence flattened: `("Replace", "ByteFallback", "Fuse", "Strip")`."""
    if tokenizer.decoder is None:
        return ()
    state = json.loads(tokenizer.decoder.__getstate__())
    return tuple(step["type"] for step in state.get("decoders", [state]))
