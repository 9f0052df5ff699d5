"""What was measured or calibrated once, kept as a small file for later processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["keep_json"]


def keep_json(data: Mapping[str, Any], path: Path) -> bool:
    """Write data to a file, whole or not at all; return whether it could be written, which is no error if not."""
    partial = path.with_suffix(f".partial-{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return True
    return False
