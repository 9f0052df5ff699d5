"""What a calibration reads: which files are texts, which are chats, and which are refused, in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skipstone.bundled import CALIBRATION_TEXT
from skipstone.calibrate import Documents
from skipstone.errors import ConfigError

CHAT = [{"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "Nobody."}]


def write(folder: Path, content: str | bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    assert Documents.read(write(tmp_path, "One.\n\nTwo.")).items == ("One.\n\nTwo.",)


def test_lines_of_json_are_chats_and_texts_whatever_the_file_is_called(tmp_path: Path) -> None:
    lines = [json.dumps({"messages": CHAT}), "", json.dumps(CHAT), json.dumps({"text": "One."})]
    for name in ("chats.jsonl", "chats.txt"):
        assert Documents.read(write(tmp_path, "\n".join(lines), name)).items == (tuple(CHAT), tuple(CHAT), "One.")


def test_auto_is_the_text_of_the_package() -> None:
    assert len(Documents.read("auto").items) == len(CALIBRATION_TEXT.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        ("", "text.txt", "holds no text"),
        (" \n\t\n", "text.txt", "holds no text"),
        ("Grüße".encode("latin-1"), "text.txt", "no UTF-8 text: byte 2 is 0xfc"),
        ("Grüße".encode("utf-16"), "text.txt", "no UTF-8 text: byte 0 is 0xff"),
        ("One.", "text.jsonl", r"line 1: a line is \{"),
        ('{"text": "One."}\nTwo.', "text.txt", "line 2: a line is"),
        ('{"prompt": "One."}', "text.txt", "line 1: .*messages is missing"),
        ('{"messages": []}', "text.txt", "found no list of messages"),
        ('[{"content": "One."}]', "text.txt", "role is missing"),
        ('[{"role": "user"}]', "text.txt", "a message has a role and content"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: str | bytes, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        Documents.read(write(tmp_path, content, name))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.txt cannot be read: No such file"):
        Documents.read(tmp_path / "missing.txt")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Documents.read(tmp_path)
