"""tests/first_hour.py with a tiny model: every step of the first hour works in a terminal."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from conftest import MakeCheckpoint

pytest.importorskip("pexpect", reason="pexpect drives the pseudo-terminal")
pytest.importorskip("pyte", reason="pyte reads its screen")

from first_hour import record

PAGE = Path(__file__).parents[3] / "docs" / "first-hour.md"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}|{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
PROGRAM = f"{shlex.quote(sys.executable)} -c 'from skipstone.cli import main; main()'"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")


@pytest.fixture(scope="module")
def recording(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the steps by their headings."""
    folder = tmp_path_factory.mktemp("hour")
    checkpoint = shutil.copytree(make_checkpoint(max_position_embeddings=2048), folder / "checkpoint")
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "home").mkdir()
    parts = re.split(r"^## ", record(checkpoint, folder / "home", PROGRAM), flags=re.MULTILINE)[1:]
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def test_a_chat_with_a_file_exports_it_once_and_takes_commands(recording: dict[str, str]) -> None:
    chat = recording["Chat with a file"]
    assert "chat-model is exported once and kept" in chat
    assert "taken back: Name three colours." in chat
    assert chat.count("tokens at ") == 2
    assert "tokens of the context used" in chat


def test_the_same_question_has_the_same_answer(recording: dict[str, str]) -> None:
    first, again = ("\n".join(recording[title].splitlines()[3:-3]) for title in list(recording)[1:3])
    assert first == again != ""


def test_pipes_typing_errors_and_json_are_taken(recording: dict[str, str]) -> None:
    assert "Traceback" not in "".join(recording.values())
    assert "prompt tokens" in recording["A document through a pipe"]
    assert "did you mean chat-model" in recording["A typing error"] or "no chat-models" in recording["A typing error"]
    assert '{"text": ' in recording["For programs"]
    assert "text: plain decoding's" in recording["What was drafted, and where the time went"]


def test_python_answers_and_what_is_kept_is_listed(recording: dict[str, str]) -> None:
    assert re.search(r"ended by (stop|length)", recording["Python"])
    assert re.search(r"chat-model-\w+ .* today ", recording["What is kept"])


def test_the_page_has_the_steps_of_the_script(recording: dict[str, str]) -> None:
    assert re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE) == [*recording]
