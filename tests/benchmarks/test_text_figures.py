"""The figures by which texts are judged, on texts that can be judged by eye."""

from __future__ import annotations

import pytest
from text_figures import completed, distinct, functions_of, has_loop, is_next_line, overlap, parses, spread

MODULE = '''import os

class Stack:
    def push(self, item):
        """Put an item on top."""
        self.items.append(item)
        return self

    def size(self): return len(self.items)

def total(numbers):
    result = 0
    for number in numbers:
        result += number
    return result
'''


def test_functions_are_asked_for_behind_their_heads_and_docstrings() -> None:
    functions = {function.head.split("(")[0].strip(): function for function in functions_of(MODULE)}
    assert {*functions} == {"def push", "def total"}
    push = functions["def push"]
    assert (
        push.head.endswith('"""Put an item on top."""')
        and push.prompt == MODULE[: MODULE.index("\n        self.items.a")]
    )
    assert push.prompt + "\n" + push.body + "\n" in MODULE


@pytest.mark.parametrize(
    ("text", "is_whole", "parsed", "next_line"),
    [
        ("\n    result = 0\n    return result\n\nclass (", True, True, True),
        ("\n    result = 0\n    return (result", True, False, True),
        ("\n    result = 0\n    return (result", False, True, True),  # cut at the limit: its last line does not count
        ("\n    pass\n", True, True, False),
        ("\nclass Other:\n    pass", True, False, False),
        ("", True, False, False),
    ],
)
def test_a_completed_function_is_judged_up_to_its_end(text: str, is_whole: bool, parsed: bool, next_line: bool) -> None:
    (function,) = [function for function in functions_of(MODULE) if "total" in function.head]
    assert parses(completed(function, text, is_whole=is_whole)) is parsed
    assert is_next_line(function, text) is next_line


def test_repeats_and_words_in_common_are_counted() -> None:
    assert distinct([1, 2, 3, 4, 5, 6]) == 1 and distinct([1] * 7) == 1 / 4 and distinct([1, 2]) == 1
    assert has_loop([*range(8), 9, *range(8)]) and not has_loop([*range(7), 9, *range(7)])
    assert overlap("The cat sat", "the cat ran") == pytest.approx(2 / 3) and overlap("", "") == 0
    assert spread(100, 3) == [0, 50, 99] and spread(2, 5) == [0, 1]
