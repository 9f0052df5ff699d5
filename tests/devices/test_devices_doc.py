"""The device that docs/devices.md shows, in one file, keeps the contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_contract import bundles, by_verdict

from skipstone.check import ContractBundles, check_clauses
from skipstone.devices import DOORS, LACKS, catalog, open_device
from skipstone.errors import DeviceError

__all__ = ["bundles"]
TEXT = (Path(__file__).parents[2] / "docs" / "devices.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:Duplicate provider")
def test_the_device_of_the_page_keeps_the_contract_and_says_what_brings_it(bundles: ContractBundles) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)
    with pytest.raises(DeviceError, match="pip install onnxruntime-mine"):
        page["open_mine"](threads=1)
    page["MyDevice"].provider = "CPUExecutionProvider"
    device = page["open_mine"](threads=1)
    assert by_verdict(device, bundles, "failed") == {}
    assert [*by_verdict(device, bundles, "refused")] == ["int8 cache"]


def test_the_page_has_a_row_for_each_device_and_each_capability(bundles: ContractBundles) -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    for name in (*LACKS, *(door.name for door in DOORS)):
        assert any(f"`{name}`" in row.split("|")[1] for row in rows), name
    clauses = " ".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| "))
    cpu = next(info for info in catalog() if info.name == "cpu")
    assert all(f"| `{name}` |" in TEXT for name in cpu.capabilities)
    assert all(clause.name in clauses for clause in check_clauses(open_device(), bundles))
