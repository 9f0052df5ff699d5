"""The operators outside of the standard ONNX set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skipstone.exporters.graph.pen import MICROSOFT

# Operator and attributes of each activation, outside of com.microsoft where there is no other.
ACTIVATION_NODES: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "silu": ("QuickGelu", {"domain": MICROSOFT, "alpha": 1.0}),
    "quick_gelu": ("QuickGelu", {"domain": MICROSOFT, "alpha": 1.702}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}
