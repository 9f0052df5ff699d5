"""skipstone: fast, lossless LLM decoding on the device in front of you.

    import skipstone
    model = skipstone.load("pebble")
    for piece in model.stream("def fibonacci(n):", max_new_tokens=64):
        print(piece.text, end="")

Names are imported when first used, so that importing one part does not import the whole.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipstone.api import export, load
    from skipstone.conversation import Conversation
    from skipstone.devices.cancellation import Cancellation
    from skipstone.errors import SkipstoneError
    from skipstone.language_model import LanguageModel
    from skipstone.runtime.engine.reading import PromptProgress
    from skipstone.runtime.generation.generation import Generation, Piece
    from skipstone.runtime.generation.options import GenerationOptions
    from skipstone.runtime.generation.stats import Stats
    from skipstone.runtime.sampling.options import SamplingOptions
    from skipstone.runtime.suggest.suggestion import Suggestion

# onnxruntime reads this once, when it is imported: without it, it would keep an identity of the device and a store of
# events in the user's cache folder, and send them. What the user has set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Cancellation",
    "Conversation",
    "Generation",
    "GenerationOptions",
    "LanguageModel",
    "Piece",
    "PromptProgress",
    "SamplingOptions",
    "SkipstoneError",
    "Stats",
    "Suggestion",
    "__version__",
    "export",
    "load",
]

_HOMES = {
    "Cancellation": "skipstone.devices.cancellation",
    "Conversation": "skipstone.conversation",
    "Generation": "skipstone.runtime.generation.generation",
    "GenerationOptions": "skipstone.runtime.generation.options",
    "LanguageModel": "skipstone.language_model",
    "Piece": "skipstone.runtime.generation.generation",
    "SamplingOptions": "skipstone.runtime.sampling.options",
    "PromptProgress": "skipstone.runtime.engine.reading",
    "SkipstoneError": "skipstone.errors",
    "Stats": "skipstone.runtime.generation.stats",
    "Suggestion": "skipstone.runtime.suggest.suggestion",
    "export": "skipstone.api",
    "load": "skipstone.api",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("skipstone")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'skipstone' has no attribute '{name}'")
