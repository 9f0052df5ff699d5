"""Documents to windows of tokens: most to calibrate with, some held back to judge by.

Shapes: W windows, T tokens of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import tokenizers
from numpy.typing import NDArray

from skipstone.calibrate.documents import Chat, Documents
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan
from skipstone.runtime.text import ChatTemplate, Tokenizer

__all__ = ["NUM_WINDOWS", "WINDOW", "Windows", "template_of", "token_ids_of", "tokenizer_of"]

WINDOW: Final = 256
NUM_WINDOWS: Final = 48
NUM_HELD_BACK: Final = 2
LEAST_WINDOWS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Token ids [W, T] to calibrate with, and others to judge by, of one text; equal seeds choose equal windows."""

    calibrate: NDArray[np.int64]
    held_back: NDArray[np.int64]

    @classmethod
    def of(cls, plan: ExportPlan, documents: Documents, *, num_windows: int = NUM_WINDOWS, seed: int = 0) -> Windows:
        """Return windows of the documents, as the tokenizer and the chat template of a plan's checkpoint show them.

        Raises: ConfigError for chats without a template, and for too short a text.
        """
        size = min(WINDOW, plan.architecture.context_length)
        token_ids = np.array([*token_ids_of(tokenizer_of(plan), template_of(plan), documents)], np.int64)
        count = len(token_ids) // size
        if count < LEAST_WINDOWS:
            raise ConfigError(
                f"the text of {documents.source} has {len(token_ids)} tokens, and a calibration wants at least "
                f"{LEAST_WINDOWS * size}, better {(num_windows + NUM_HELD_BACK) * size}: give a longer one"
            )
        windows = token_ids[: count * size].reshape(count, size)
        chosen = _spread(count, min(count, num_windows + NUM_HELD_BACK), seed)
        is_held_back = np.isin(np.arange(len(chosen)), _spread(len(chosen), NUM_HELD_BACK, seed))
        return cls(calibrate=windows[chosen[~is_held_back]], held_back=windows[chosen[is_held_back]])

    @property
    def num_tokens(self) -> int:
        """How many tokens are calibrated with."""
        return self.calibrate.size


def _spread(count: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return `wanted` of the numbers below `count`, ascending: one at random of each equal part."""
    borders = np.linspace(0, count, wanted + 1).astype(np.int64)
    return np.random.default_rng(seed).integers(borders[:-1], borders[1:])


def tokenizer_of(plan: ExportPlan) -> Tokenizer:
    """Return the tokenizer of a plan's checkpoint."""
    return Tokenizer(tokenizers.Tokenizer.from_buffer(plan.checkpoint.texts["tokenizer.json"]))


def template_of(plan: ExportPlan) -> ChatTemplate | None:
    """Return the chat template of a plan's checkpoint; None where it has none."""
    texts = plan.checkpoint.texts
    readable = {name: text.decode("utf-8") for name, text in texts.items() if name.endswith((".json", ".jinja"))}
    return ChatTemplate.of_texts(readable, folder=plan.checkpoint.path)


def token_ids_of(tokenizer: Tokenizer, template: ChatTemplate | None, documents: Documents) -> Iterator[int]:
    """Yield the tokens of documents, one after the other. Raises: ConfigError for chats without a template."""
    for document in documents.items:
        if isinstance(document, str):
            yield from tokenizer.encode(document)
        elif (shown := _shown(document, template, documents)) is not None:
            yield from tokenizer.encode(shown, add_special_tokens=False)
        else:
            yield from tokenizer.encode("\n\n".join(str(message["content"]) for message in document))


def _shown(chat: Chat, template: ChatTemplate | None, documents: Documents) -> str | None:
    """Return a chat as the template shows it; None for one of the package that it cannot show. Raises: ConfigError."""
    if template is None:
        if documents.is_packaged:
            return None
        raise ConfigError(
            f"{documents.source} holds chats, and this checkpoint has no chat template: give a plain text"
        )
    try:
        return template.render(chat, add_generation_prompt=False)
    except ConfigError as error:
        if documents.is_packaged:
            return None
        raise ConfigError(f"{documents.source}: a chat cannot be shown: {error}") from error
