"""Stream into an app: a worker thread writes, the app shows pieces as they come and may cancel at any time.

python stream_with_cancel.py
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import skipstone


def start(model: skipstone.LanguageModel, prompt: str, pieces: queue.Queue[str | None]) -> Callable[[], None]:
    """Write the answer to `pieces`, None at its end; return the function that cancels it."""
    cancellation = skipstone.Cancellation()

    def work() -> None:
        for piece in model.stream(prompt, max_new_tokens=200, cancel=cancellation):
            pieces.put(piece.text)
        pieces.put(None)

    threading.Thread(target=work, daemon=True).start()
    return cancellation.cancel


def main() -> None:
    model = skipstone.load("pebble")
    pieces: queue.Queue[str | None] = queue.Queue()
    cancel = start(model, "class Stack:\n", pieces)
    shown = 0
    while (text := pieces.get()) is not None:
        print(text, end="", flush=True)
        shown += len(text)
        if shown > 120:  # the user has seen enough
            cancel()
    print("\n[cancelled]" if shown > 120 else "")


if __name__ == "__main__":
    main()
