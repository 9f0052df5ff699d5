"""The Python code of the documents runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import skipstone
from skipstone.spellings import ALIASES

OF_OTHER_PAGES = ("Suggestion", "__version__", "export")
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("document", ["python.md", "suggest.md"])
def test_the_python_code_of_a_document_runs(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / document).read_text(encoding="utf-8"), re.M | re.S)
    assert blocks, f"{document} shows no Python"
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), document, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_page_on_python_names_every_alias_and_every_public_name() -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*) \|$", text, re.M))
    for alias, own in ALIASES.items():
        assert f"`{alias}` (" in rows[own]
    assert [name for name in skipstone.__all__ if name not in text and name not in OF_OTHER_PAGES] == []
