"""The Python code of the documents runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("document", ["in-your-program.md", "suggest.md"])
def test_the_python_code_of_a_document_runs(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / document).read_text(encoding="utf-8"), re.M | re.S)
    assert blocks, f"{document} shows no Python"
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), document, "exec"), {})
    assert capsys.readouterr().out.strip()
