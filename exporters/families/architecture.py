"""What a decoder is, whatever its checkpoint calls things: the one description that the graph is built from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import UnsupportedModel
from skipstone.exporters.families.altup import AltUp
from skipstone.exporters.families.carving import CarvedFfn, Carving
from skipstone.exporters.families.experts import Experts
from skipstone.exporters.families.rotary import Rotary
from skipstone.runtime.bundle import Dimensions

__all__ = ["ACTIVATIONS", "Architecture"]

Rows: TypeAlias = NDArray[np.int64]
# The names of config.json for one function each.
ACTIVATIONS: Final[Mapping[str, str]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
NORMS: Final = ("rms", "layer")
# One gain for every head; one for the heads side by side; a LayerNorm with a gain of its own for each head.
HEAD_NORMS: Final = ("none", "shared", "joint", "layer")
# The tensors that only one block of a layer reads.
_ATTENTION: Final = frozenset({"q", "k", "v", "qkv", "o", "q_norm", "k_norm", "attention_norm", "attention_out_norm"})
_FFN: Final = frozenset(
    {
        "gate",
        "up",
        "gate_up",
        "down",
        "router",
        "expert_gate",
        "expert_up",
        "expert_down",
        "ffn_norm",
        "ffn_out_norm",
        "expert_router",
        "expert_offset",
        "expert_gain",
        "expert_rest",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder of attention and FFN layers over one residual stream.

    `names` maps our tensor names to the checkpoint's, with `{layer}`, `{head}`, `{expert}` and `{stream}` in them; what
    has no name is not there: a layer without `attention_norm` reads the stream itself, one with `attention_out_norm`
    norms what attention adds. `biases` are the names of the tensors that have one, called `..._bias`. One entry per
    layer have `windows` (how many newest tokens, itself included, a token attends to; None is all), `rotaries` (None is
    a layer without positions) and `ffn_widths`, the inner width of the dense FFN. Sums are over norms with
    `norm_offset` added to their gains. `parallel` layers add attention and FFN of the same input. `scale` options
    multiply: `attention_scales` the scores, `embedding_scale` the embeddings, `residual_scale` all that is added to the
    stream, `logit_scale` the logits; caps bound them softly, by tanh. With an `altup` there are several streams. A
    `head_turn`, which no checkpoint has, multiplies what the head reads: a rotated model has one whose head is the
    embedding. Layers in `no_attention` and `no_ffn` lack that block, which no checkpoint does: a pruned model has such.
    With a `carving` the neurons of dense FFNs stand in the order of experts.
    """

    family: str
    dimensions: Dimensions
    context_length: int
    names: Mapping[str, str]
    biases: frozenset[str]
    tied_embedding: bool
    windows: tuple[int | None, ...]
    rotaries: tuple[Rotary | None, ...]
    ffn_widths: tuple[int, ...]
    norm: str
    norm_epsilon: float
    norm_offset: float
    head_norm: str
    activation: str
    parallel: bool
    grouped: bool
    transposed: bool
    attention_scales: tuple[float, ...]
    attention_cap: float | None
    qkv_clip: float | None
    embedding_scale: float
    residual_scale: float
    logit_scale: float
    logit_cap: float | None
    experts: Experts | None
    altup: AltUp | None
    no_attention: frozenset[int] = frozenset()
    no_ffn: frozenset[int] = frozenset()
    carving: Carving | None = None

    def __post_init__(self) -> None:
        for option, known in (("norm", NORMS), ("head_norm", HEAD_NORMS), ("activation", set(ACTIVATIONS.values()))):
            value = getattr(self, option)
            if value not in known:
                raise UnsupportedModel(f"{self.family}: {option} '{value}' is not known; known are {', '.join(known)}")

    def has(self, name: str) -> bool:
        """Whether the model has a tensor that we call `name`."""
        return name in self.names

    def is_transposed(self, name: str) -> bool:
        """Whether the checkpoint holds a matrix the other way round, inputs first."""
        return self.transposed and name not in ("embedding", "positions", "head", "head_turn")

    def is_mixture(self, layer: int) -> bool:
        """Whether the FFN of a layer is a mixture of experts."""
        return self.experts is not None and self.experts.layers[layer]

    def has_attention(self, layer: int) -> bool:
        """Whether a layer attends."""
        return layer not in self.no_attention

    def has_ffn(self, layer: int) -> bool:
        """Whether a layer has an FFN, or a mixture of experts."""
        return layer not in self.no_ffn

    def carved_ffn(self, layer: int) -> CarvedFfn | None:
        """Return how the FFN of a layer is carved into experts; None where it is not."""
        return None if self.carving is None else self.carving.layers[layer]

    def cache_owner(self, layer: int) -> int:
        """Return the layer whose keys and values a layer attends to: itself, or an earlier one."""
        return layer if self.altup is None else self.altup.cache_owners[layer]

    @property
    def cached_layers(self) -> tuple[int, ...]:
        """The layers that have a cache of their own."""
        layers = range(self.dimensions.num_layers if self.altup is None else self.altup.num_caches)
        return tuple(layer for layer in layers if self.has_attention(layer))

    def cache_number(self, layer: int) -> int:
        """Return which of all caches is that of a layer."""
        return self.cached_layers.index(layer)

    @property
    def switch_after(self) -> int | None:
        """From which length of a text on all its positions turn by the angles of long texts; None is never."""
        return next((rotary.switch_after for rotary in self.rotaries if rotary is not None), None)

    @property
    def rotary_kinds(self) -> tuple[Rotary, ...]:
        """The different ways in which layers turn positions, in the order of the first layer that does."""
        kinds: list[Rotary] = []
        for rotary in self.rotaries:
            if rotary is not None and rotary not in kinds:
                kinds.append(rotary)
        return tuple(kinds)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of the model, by the checkpoint's names."""
        named = dict(self._shapes_of({name: shape for name, shape in self._outer_shapes().items() if self.has(name)}))
        for layer in range(self.dimensions.num_layers):
            absent = self._absent(layer)
            shapes = {
                name: shape for name, shape in self.layer_shapes(layer).items() if self.has(name) and name not in absent
            }
            named |= self._shapes_of(shapes, layer)
        return named

    def _outer_shapes(self) -> dict[str, tuple[int, ...]]:
        d = self.dimensions
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (d.vocab_size, d.hidden_size),
            "positions": (self.context_length, d.hidden_size),
            "final_norm": (d.hidden_size,),
            "head_turn": (d.hidden_size, d.hidden_size),
        }
        if self.altup is not None:
            shapes |= self.altup.outer_shapes(d.hidden_size)
        return shapes if self.tied_embedding else shapes | {"head": (d.vocab_size, d.hidden_size)}

    def _absent(self, layer: int) -> frozenset[str]:
        """Return our names of what a layer lacks because it has one block only."""
        absent = frozenset[str]()
        if not self.has_attention(layer):
            is_shared = self.parallel and not self.has("ffn_norm") and self.has_ffn(layer)
            absent |= _ATTENTION - ({"attention_norm"} if is_shared else set())
        return absent if self.has_ffn(layer) else absent | _FFN

    def layer_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that a layer can have, by our names; outputs come first."""
        d, inner = self.dimensions, self.ffn_widths[layer]
        hidden, query, key_value = d.hidden_size, d.num_heads * d.head_size, d.num_kv_heads * d.head_size
        shapes: dict[str, tuple[int, ...]] = {
            **{f"{part}{norm}": (hidden,) for part in ("attention", "ffn") for norm in ("_norm", "_out_norm")},
            "q": (query, hidden),
            "k": (key_value, hidden),
            "v": (key_value, hidden),
            "qkv": (query + 2 * key_value, hidden),
            "o": (hidden, query),
        }
        if self.head_norm != "none":
            joint = self.head_norm == "joint"
            shapes |= {"q_norm": (query if joint else d.head_size,), "k_norm": (key_value if joint else d.head_size,)}
        if self.altup is not None:
            shapes |= self.altup.layer_shapes(hidden)
        if self.cache_owner(layer) != layer:
            shapes = {name: shape for name, shape in shapes.items() if name not in ("k", "v", "k_norm")}
        if self.is_mixture(layer):
            assert self.experts is not None
            inner = self.experts.intermediate_size
            shapes |= {"router": (self.experts.num_experts, hidden)}
            return shapes | {
                "expert_gate": (inner, hidden),
                "expert_up": (inner, hidden),
                "expert_down": (hidden, inner),
            }
        if (carved := self.carved_ffn(layer)) is not None:
            shapes |= carved.router_shapes(hidden)
        return shapes | {
            "gate": (inner, hidden),
            "up": (inner, hidden),
            "gate_up": (2 * inner, hidden),
            "down": (hidden, inner),
        }

    def _shapes_of(
        self, shapes: Mapping[str, tuple[int, ...]], layer: int = 0
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the checkpoint's name and shape of each tensor, and of its bias."""
        for name, shape in shapes.items():
            stored = shape[::-1] if self.is_transposed(name) else shape
            for theirs in self.stored_names(name, layer):
                yield theirs, stored
            if name in self.biases:
                yield self.names[f"{name}_bias"].format(layer=layer), shape[:1]

    def stored_names(self, name: str, layer: int = 0) -> tuple[str, ...]:
        """Return what the checkpoint calls a tensor of ours: several where heads, experts or streams have their own."""
        return tuple(self.names[name].format(layer=layer, **place) for place in self._places(name))

    def head_starts(self) -> tuple[Rows, Rows, Rows]:
        """Return where each head of queries, keys and values begins: in `qkv`, or each kind in a matrix of its own."""
        d, size = self.dimensions, self.dimensions.head_size
        if not self.has("qkv"):
            return np.arange(d.num_heads) * size, np.arange(d.num_kv_heads) * size, np.arange(d.num_kv_heads) * size
        places = np.arange(d.num_heads + 2 * d.num_kv_heads) * size
        if not self.grouped:
            query, key, value = np.split(places, [d.num_heads, d.num_heads + d.num_kv_heads])
            return query, key, value
        groups = places.reshape(d.num_kv_heads, -1)  # each key-value head follows its queries
        return groups[:, :-2].ravel(), groups[:, -2], groups[:, -1]

    def _places(self, name: str) -> list[dict[str, int]]:
        """Return what else a tensor's name holds: the number of the head, of the expert or of the stream."""
        d = self.dimensions
        if name.startswith("expert_") and self.experts is not None:
            return [{"expert": expert} for expert in range(self.experts.num_experts)]
        if self.altup is not None and name in ("into_stream", "from_stream"):
            return [{"stream": stream} for stream in range(self.altup.num_streams - 1)]
        if self.head_norm == "layer" and name in ("q_norm", "k_norm"):
            return [{"head": head} for head in range(d.num_heads if name == "q_norm" else d.num_kv_heads)]
        return [{}]
