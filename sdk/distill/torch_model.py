"""A carved bundle in torch: its plain graphs, whose FFNs run as many experts as wanted, with routers that learn.

Shapes: T tokens, E hidden size, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from skipstone.distill.carved_layers import carved_layers
from skipstone.distill.learning_router import LearningRouter
from skipstone.distill.torch_graph import TorchGraph
from skipstone.errors import UnsupportedModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import rotary_rows
from skipstone.train import require_torch

__all__ = ["Counts", "TorchModel"]

Counts: TypeAlias = SequenceOf[int]
"""How many experts of each layer are active, those for all tokens among them."""
_FFN: Final = re.compile(r"layers\.(\d+)\.(gate_up|down)")


class TorchModel:
    """The model of a bundle, in float32. Cost: 4 bytes for each weight, from the first text on."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises: ConfigError for a bundle without experts, UnsupportedModel for graphs that are not known here."""
        self._torch, manifest = require_torch(), bundle.manifest
        if manifest.is_traced:
            raise UnsupportedModel("the graph of optimum has no experts")
        assert manifest.experts is not None, "carved_layers has looked"
        self._layers, self._manifest = carved_layers(bundle), manifest
        self._bundle = bundle  # held while its weights are read
        self._num_shared = manifest.experts.num_shared
        files = [stage.file for stage in manifest.stages] + ([] if manifest.head is None else [manifest.head])
        self._graphs = [TorchGraph(bundle.file(file)) for file in files]
        self.routers: dict[int, LearningRouter] = {}

    def prepare(self, window: SequenceOf[int]) -> None:
        """Make the routers as the bundle has them, by what a text does in the dense model."""
        routers, hidden_size = self.routers, self._manifest.dimensions.hidden_size

        def dense(layer: int, x: Any, inner: Any, multiply: Callable[[Any], Any]) -> Any:
            routers[layer] = LearningRouter(self._layers[layer], hidden_size, (x, inner, multiply))
            return multiply(inner)

        with self._torch.no_grad():
            self._run(window, dense)
        if missing := {*self._layers} - {*routers}:
            raise UnsupportedModel(f"the plain graphs have no FFN of layers {sorted(missing)} that could be followed")

    def logits(self, window: SequenceOf[int], counts: Counts | None = None) -> Any:
        """Return logits [T, V] along a text, with so many experts; None is all of them, the dense model."""
        if counts is None:
            return self._run(window, None)

        def sparse(layer: int, x: Any, inner: Any, multiply: Callable[[Any], Any]) -> Any:
            return self.routers[layer](x, inner, multiply, counts[layer] - self._num_shared)

        return self._run(window, sparse)

    def _run(self, window: SequenceOf[int], ffn: Callable[..., Any] | None) -> Any:
        feed = self._feed(window)
        around = None if ffn is None else _Ffns({*self._layers}, ffn)
        for graph in self._graphs:
            given = {name: feed[name] for name in graph.inputs if name in feed}
            found = graph.run(given, around)
            feed["hidden"] = found.get("hidden_out")
        return found["logits"]

    def _feed(self, window: SequenceOf[int]) -> dict[str, Any]:
        """Return the inputs of all graphs for a text from its beginning; nobody looks at a cache."""
        torch, count = self._torch, len(window)
        places = torch.arange(count)
        feed = {
            "token_ids": torch.tensor(list(window))[None, :, None],
            "token_weights": torch.ones(1, count, 1),
            "position_ids": places[None],
            "attention_rows": places,
            "token_rows": places,
            "rows": places,
        }
        width = self._manifest.cache[0].head_size // 2
        for number, rotary in enumerate(self._manifest.rotaries):
            tables = rotary_rows(rotary, range(count), width=width)
            names = (f"cosines_{number}", f"sines_{number}")
            feed |= {name: torch.from_numpy(np.array(table)) for name, table in zip(names, tables, strict=True)}
        return feed


@dataclass(slots=True)
class _Ffns:
    """Goes between the products of carved FFNs: keeps what one reads, and computes what it gives."""

    layers: set[int]
    ffn: Callable[..., Any]
    x: Any = None

    def __call__(self, name: str, x: Any, multiply: Callable[[Any], Any]) -> Any:
        match = _FFN.fullmatch(name)
        if match is None or int(match[1]) not in self.layers:
            return multiply(x)
        if match[2] == "gate_up":
            self.x = x
            return multiply(x)
        return self.ffn(int(match[1]), self.x, x, multiply)
