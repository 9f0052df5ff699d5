"""One layer of a model at a time as a graph of its own: built as an export builds it, run on whole windows.

Shapes: B windows, T tokens of each, E hidden size, K kv heads, D padded head size, V vocabulary.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.calibrate.taps import only_taps, tap_products
from skipstone.devices import Device, Session
from skipstone.exporters import ExportPlan
from skipstone.exporters.families import Architecture
from skipstone.exporters.graph import (
    ModelWeights,
    Rounder,
    WeightFile,
    build_embedding,
    build_head,
    build_stage,
    kernel_head_size,
    ring_windows,
    rounded,
)
from skipstone.quant import Recipe
from skipstone.runtime.bundle import StageEntry
from skipstone.runtime.engine import rotary_rows

__all__ = ["LayerGraph", "LayerGraphs"]

Floats: TypeAlias = NDArray[np.float32]
Wanted: TypeAlias = Callable[[str], bool]
"""The name of a matrix to whether its inputs are wanted."""
_Build: TypeAlias = Callable[[Architecture, ModelWeights, Recipe, WeightFile], ir.Model]
_Opening: TypeAlias = AbstractContextManager["LayerGraph"]
FLOATS: Final = Recipe.named("fp32")
_NOTHING: Final[Mapping[str, Floats]] = {}


def _none(name: str) -> bool:
    return False


class LayerGraph:
    """A graph in a file: hidden states, or token ids, of whole windows in, and what was asked for out.

    `taps` are the outputs with the inputs of products, by the name of the matrix. The session is opened when first run.
    """

    def __init__(self, path: Path, device: Device, architecture: Architecture, taps: Mapping[str, str]) -> None:
        self._path, self._device, self._architecture, self.taps = path, device, architecture, taps
        self._session: Session | None = None

    def digest(self) -> bytes:
        """Return a hash of the graph and its weights."""
        digest = hashlib.sha256()
        for file in sorted(self._path.parent.iterdir()):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.digest()

    def embed(self, token_ids: NDArray[np.int64]) -> Floats:
        """Return the hidden states [B, T, E] of tokens [B, T]."""
        tokens = token_ids[:, :, None]
        weights = np.ones(tokens.shape, np.float32)
        return self._run(["hidden_out"], token_ids.shape, {"token_ids": tokens, "token_weights": weights})[0]

    def states(self, hidden: Floats, given: Mapping[str, Floats] = _NOTHING) -> Floats:
        """Return the hidden states [B, T, E] behind the layer; `given` are inputs that were added to its graph."""
        return self._run(["hidden_out"], hidden.shape, {"hidden": hidden, **given})[0]

    def logits(self, hidden: Floats) -> Floats:
        """Return the logits [B * T, V] of a head."""
        return self._run(["logits"], hidden.shape, {"hidden": hidden})[0]

    def inputs(self, hidden: Floats, given: Mapping[str, Floats] = _NOTHING) -> Mapping[str, Floats]:
        """Return the inputs of products, [B * T, K] each, by the names of their outputs; `given` as for `states`."""
        return self._inputs(hidden, given)[0]

    def inputs_and_states(self, hidden: Floats) -> tuple[Mapping[str, Floats], Floats]:
        """Return `inputs` and `states`, by one run."""
        inputs, (states,) = self._inputs(hidden, _NOTHING, "hidden_out")
        return inputs, states

    def read(
        self, outputs: Sequence[str], hidden: Floats, given: Mapping[str, NDArray[np.generic]]
    ) -> Mapping[str, Floats]:
        """Return outputs of the graph by name, also those that were added to it; `given` as for `states`."""
        arrays = self._run([*outputs], hidden.shape, {"hidden": hidden, **given})
        return dict(zip(outputs, arrays, strict=True))

    def _inputs(
        self, hidden: Floats, given: Mapping[str, Floats], *more: str
    ) -> tuple[Mapping[str, Floats], list[Floats]]:
        outputs = sorted(set(self.taps.values()))
        arrays = self._run([*outputs, *more], hidden.shape, {"hidden": hidden, **given})
        inputs = {name: array.reshape(-1, array.shape[-1]) for name, array in zip(outputs, arrays, strict=False)}
        return inputs, arrays[len(outputs) :]

    def _run(
        self, outputs: list[str], shape: tuple[int, ...], given: Mapping[str, NDArray[np.generic]]
    ) -> list[Floats]:
        if self._session is None:
            self._session = self._device.open_session(self._path)
        inputs = {**_step(self._architecture, *shape[:2]), **given}
        cache = _cache(self._architecture, *shape[:2])
        names = [argument.name for argument in self._session.get_inputs()]
        feed = {name: cache if name.startswith("past_") else inputs[name] for name in names}
        return list(self._session.run(outputs, feed))

    def close(self) -> None:
        self._session = None


class LayerGraphs:
    """Writes the graphs of one plan, each alone in a folder in `folder` that is gone when it is closed."""

    def __init__(self, plan: ExportPlan, device: Device, folder: Path) -> None:
        self._plan, self._device, self._folder = plan, device, folder

    @property
    def num_layers(self) -> int:
        return self._plan.architecture.dimensions.num_layers

    def embedding(self, recipe: Recipe = FLOATS, rounder: Rounder = rounded) -> _Opening:
        """Open the graph from token ids to hidden states, with the matrices that a recipe and a rounder give."""
        return self._open(build_embedding, recipe, rounder)

    def layer(
        self,
        layer: int,
        recipe: Recipe = FLOATS,
        rounder: Rounder = rounded,
        *,
        tap: Wanted = _none,
        change: Callable[[ir.Model], None] = lambda model: None,
    ) -> _Opening:
        """Open the graph of one layer, which gives the inputs of its products with the matrices to `tap` as well.

        `change` may change the graph before.
        """
        stage = StageEntry(
            file="layer.onnx", first_layer=layer, end_layer=layer + 1, embeds=False, ends_in_logits=False
        )

        def build(*parts: Any) -> ir.Model:
            model = build_stage(stage, *parts)
            change(model)
            return model

        return self._open(build, recipe, rounder, tap)

    def head(self, recipe: Recipe = FLOATS, rounder: Rounder = rounded, *, tap: Wanted = _none) -> _Opening:
        """Open the graph from hidden states to logits, or to the inputs of its products alone where there are some."""
        return self._open(build_head, recipe, rounder, tap, alone=True)

    @contextmanager
    def _open(
        self, build: _Build, recipe: Recipe, rounder: Rounder, tap: Wanted = _none, *, alone: bool = False
    ) -> Iterator[LayerGraph]:
        architecture = self._plan.architecture
        weights = ModelWeights(architecture, self._plan.checkpoint.tensors, lambda num_parameters: None)
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            with WeightFile(folder / "weights.bin", rounder) as file:
                model = build(architecture, weights, recipe, file)
            taps = tap_products(model, tap)
            if alone and taps:
                only_taps(model)
            ir.save(model, folder / "graph.onnx")
            graph = LayerGraph(folder / "graph.onnx", self._device, architecture, taps)
            try:
                yield graph
            finally:
                graph.close()


def _step(architecture: Architecture, batch: int, num_tokens: int) -> dict[str, NDArray[np.generic]]:
    """Return what graphs read beside hidden states and caches: the places of whole texts that begin here."""
    rows = np.arange(num_tokens)
    inputs: dict[str, NDArray[np.generic]] = {
        "position_ids": np.tile(rows, (batch, 1)),
        "seqlens_k": np.full(batch, num_tokens - 1, np.int32),
        "total_sequence_length": np.array(num_tokens, np.int32),
        "attention_bias": np.zeros((1, 1, num_tokens, num_tokens), np.float32),
        "attention_rows": rows,
        "token_rows": rows,
        "rows": np.arange(batch * num_tokens),
    }
    for window in {*ring_windows(architecture).values()}:
        inputs |= {
            f"seqlens_k_{window}": inputs["seqlens_k"],
            f"total_length_{window}": inputs["total_sequence_length"],
        }
    switch_after, width = architecture.switch_after, kernel_head_size(architecture.dimensions.head_size) // 2
    for number, rotary in enumerate(architecture.rotary_kinds):
        is_long = switch_after is not None and num_tokens > switch_after
        cosines, sines = rotary_rows(rotary.entry(), range(num_tokens), width=width, is_long=is_long)
        inputs |= {f"cosines_{number}": cosines, f"sines_{number}": sines}
    return inputs


def _cache(architecture: Architecture, batch: int, num_tokens: int) -> Floats:
    """Return an empty cache of keys or values."""
    d = architecture.dimensions
    return np.zeros((batch, d.num_kv_heads, num_tokens, kernel_head_size(d.head_size)), np.float32)
