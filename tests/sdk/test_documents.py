"""The documents name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACE = re.compile(r"(?<![\w/])(?:web|runtime|exporters|sdk|devices|quant|tests|examples)/[\w/.-]*\w")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    named = set(PLACE.findall(document.read_text(encoding="utf-8")))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
