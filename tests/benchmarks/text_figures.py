"""Figures of texts: how varied they are, whether they run in loops, and whether a completed function parses."""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LINES_BEFORE = 12  # of a function's module, that a prompt shows
LEAST_LINES, MOST_LINES = 2, 15  # of a body that is asked for
LOOP = 8  # tokens


def ngrams(token_ids: SequenceOf[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(token_ids[start : start + size]) for start in range(len(token_ids) - size + 1)]


def distinct(token_ids: SequenceOf[int], size: int = 4) -> float:
    """Return the share of n-grams that are no repeats; 1 for a text that has none."""
    found = ngrams(token_ids, size)
    return len({*found}) / len(found) if found else 1.0


def has_loop(token_ids: SequenceOf[int]) -> bool:
    """Return whether eight tokens stand in a row twice."""
    return distinct(token_ids, LOOP) < 1


def overlap(text: str, reply: str) -> float:
    """Return the F1 of the words of two texts, 0..1: ROUGE-1 without stemming."""
    ours, theirs = (Counter(re.findall(r"\w+", one.lower())) for one in (text, reply))
    return 2 * (ours & theirs).total() / max(ours.total() + theirs.total(), 1)


def mean_and_error(values: SequenceOf[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    found = np.asarray(values, np.float64)
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else float("nan")


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a module: `prompt` ends behind its head and docstring, `head` is that alone, `body` follows."""

    prompt: str
    head: str
    body: str


def functions_of(source: str) -> Iterator[Function]:
    """Yield the functions of a module whose body is short. Raises: SyntaxError."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if not body or body[0].lineno == node.lineno:
            continue
        first, end = body[0].lineno - 1, node.end_lineno or 0
        if LEAST_LINES <= end - first <= MOST_LINES:
            start = max(0, node.lineno - 1 - LINES_BEFORE)
            yield Function(
                "\n".join(lines[start:first]), "\n".join(lines[node.lineno - 1 : first]), "\n".join(lines[first:end])
            )


def completed(function: Function, text: str, *, is_whole: bool) -> str | None:
    """Return the function with a text behind its head, up to where the text leaves it; None where nothing is left.

    Of a text that is not `is_whole`, since it was cut at its limit, the last line does not count.
    """
    depth = len(function.head) - len(function.head.lstrip())
    rest, *lines = text.split("\n")
    outside = (place for place, line in enumerate(lines) if line.strip() and _depth(line) <= depth)
    end = next(outside, len(lines) if is_whole else len(lines) - 1)
    body = lines[:end]
    return "\n".join([function.head + rest, *body]) if any(line.strip() for line in body) else None


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def parses(code: str | None) -> bool:
    """Return whether a completed function is Python."""
    if code is None:
        return False
    try:
        ast.parse(textwrap.dedent(code))
    except (SyntaxError, ValueError):
        return False
    return True


def is_next_line(function: Function, text: str) -> bool:
    """Return whether a text begins with the first line of the function's true body."""
    (true, *_), found = _lines(function.body), _lines(text)
    return bool(found) and found[0] == true


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` places of `count`, evenly spread."""
    places = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    assert all(one < other for one, other in pairwise(places))
    return list(places)
