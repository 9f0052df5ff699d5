"""How much one rendering of a chat template may take: steps, characters, items, and seconds of processor time.

The bounds grow with the conversation, so that no honest template meets them, however long a text it shows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from jinja2 import TemplateRuntimeError
from jinja2.utils import Namespace

__all__ = ["TemplateBudget"]

SECONDS: Final = 0.5
SECONDS_A_CHARACTER: Final = 5e-6
CHARACTERS: Final = 8_000_000
CHARACTERS_A_CHARACTER: Final = 16
ITEMS: Final = 200_000
# Bits of an integer that a template may make: enough for any date or size.
INTEGER_BITS: Final = 4096
# The widest field that a format may ask for.
WIDTH: Final = 1000
STEPS_BETWEEN_LOOKS: Final = 64
WIDE_FORMAT: Final = re.compile(r"%[^a-zA-Z%]*(\*|[0-9]{4})|\{[^{}]*:[^{}]*([0-9]{4}|\{)")


class TemplateBudget:
    """What is left to one rendering; every method raises TemplateRuntimeError where it is used up."""

    def __init__(self, given: object) -> None:
        """`given` are the variables of the rendering: their length adds to what the template may use."""
        size = _characters(given)
        self._characters = CHARACTERS + CHARACTERS_A_CHARACTER * size
        self._items = ITEMS + size
        self._end = time.thread_time() + SECONDS + SECONDS_A_CHARACTER * size
        self._steps = 0

    def step(self) -> None:
        """Count a step: one turn of a loop, one call, one filter."""
        self._steps += 1
        if self._steps % STEPS_BETWEEN_LOOKS == 0 and time.thread_time() > self._end:
            raise TemplateRuntimeError("it takes too long")

    def characters(self, count: int) -> None:
        """Count characters that are made."""
        self._characters -= count
        if self._characters < 0:
            raise TemplateRuntimeError("it makes too much text")

    def room_for_characters(self, count: int) -> None:
        """Refuse a text of so many characters before it is made."""
        if count > self._characters:
            raise TemplateRuntimeError("it makes too much text")

    def items(self, count: int) -> None:
        """Refuse a list of so many items."""
        if count > self._items:
            raise TemplateRuntimeError("it makes too long a list")

    def made(self, value: Any) -> Any:
        """Count a value that was made, and return it."""
        if isinstance(value, str | bytes):
            self.characters(len(value))
        elif isinstance(value, list | tuple | dict):
            self.contained(value)
        elif isinstance(value, int):
            self.integer(value.bit_length())
        return value

    def contained(self, value: object) -> None:
        """Refuse a list or mapping with too many items, those of its items counted wherever they stand."""
        left, waiting = self._items, [value]
        while waiting:
            inner = waiting.pop()
            if isinstance(inner, Mapping):
                inner = list(inner.values())
            elif isinstance(inner, Namespace):
                inner = list(object.__getattribute__(inner, "_Namespace__attrs").values())
            if isinstance(inner, list | tuple):
                left -= len(inner)
                if left < 0:
                    raise TemplateRuntimeError("it makes too long a list")
                waiting.extend(inner)
        self._steps += (self._items - left) // STEPS_BETWEEN_LOOKS

    def integer(self, bits: int) -> None:
        """Refuse an integer of so many bits."""
        if bits > INTEGER_BITS:
            raise TemplateRuntimeError("it makes too large a number")

    def width(self, value: object) -> None:
        """Refuse the width of a field, or a number of digits, that is too large."""
        if isinstance(value, int) and abs(value) > WIDTH:
            raise TemplateRuntimeError("it asks for too wide a field")

    def format(self, text: str) -> None:
        """Refuse a format whose fields may be too wide."""
        if WIDE_FORMAT.search(text):
            raise TemplateRuntimeError("it asks for too wide a field")

    def text(self, value: object) -> str:
        """Return a value as text, counted. Refuses what holds too much to be shown."""
        if isinstance(value, str):
            self.characters(len(value))
            return value
        self.contained(value)
        shown = str(value)
        self.characters(len(shown))
        return shown

    def product(self, left: Any, right: Any) -> None:
        """Look at the factors of a product before it is made."""
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | bytes) and isinstance(count, int):
                self.room_for_characters(len(sequence) * max(count, 0))
            elif isinstance(sequence, list | tuple) and isinstance(count, int):
                self.items(len(sequence) * max(count, 0))
        if isinstance(left, int) and isinstance(right, int):
            self.integer(left.bit_length() + right.bit_length())

    def power(self, base: object, exponent: object) -> None:
        """Look at a power before it is made."""
        if isinstance(base, int) and isinstance(exponent, int):
            self.integer(base.bit_length() * max(exponent, 0))

    def replaced(self, text: str, old: str, new: str) -> None:
        """Look at a replacement before it is made."""
        self.room_for_characters(len(text) + (text.count(old) if old else len(text) + 1) * len(new))

    def joined(self, separator: str, items: Iterable[object]) -> None:
        """Look at texts before they are joined."""
        if isinstance(items, Sequence):
            total = sum(len(item) for item in items if isinstance(item, str))
            self.room_for_characters(total + len(items) * len(separator))


def _characters(value: object) -> int:
    """Return how long the texts in a value are, keys and items counted."""
    total, waiting = 0, [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, str):
            total += len(inner)
        elif isinstance(inner, Mapping):
            waiting.extend(inner.values())
            total += sum(1 + len(key) for key in inner if isinstance(key, str))
        elif isinstance(inner, list | tuple):
            waiting.extend(inner)
            total += len(inner)
    return total
