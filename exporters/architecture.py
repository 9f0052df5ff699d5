"""What a decoder is, whatever its checkpoint calls things: the one description that the graph is built from."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.exporters.rotary import Rotary
from skipstone.runtime.manifest import Dimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A pre-norm decoder with rotary grouped-query attention and a gated FFN.

    `windows` has one entry per layer: how many newest tokens, itself included, a token attends to; None is all.
    `names` maps our tensor names to the checkpoint's, with `{layer}` in those of a layer.
    """

    family: str
    dimensions: Dimensions
    context_length: int
    norm_epsilon: float
    rotary: Rotary
    windows: tuple[int | None, ...]
    tied_embedding: bool
    qkv_bias: bool
    output_bias: bool
    ffn_bias: bool
    qk_norm: bool
    names: dict[str, str]

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor that the checkpoint must hold, by the checkpoint's names."""
        d = self.dimensions
        query, key_value = d.num_heads * d.head_size, d.num_kv_heads * d.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (d.vocab_size, d.hidden_size),
            "final_norm": (d.hidden_size,),
        }
        if not self.tied_embedding:
            shapes["head"] = (d.vocab_size, d.hidden_size)
        layer: dict[str, tuple[int, ...]] = {
            "attention_norm": (d.hidden_size,),
            "q": (query, d.hidden_size),
            "k": (key_value, d.hidden_size),
            "v": (key_value, d.hidden_size),
            "o": (d.hidden_size, query),
            "ffn_norm": (d.hidden_size,),
            "gate": (d.intermediate_size, d.hidden_size),
            "up": (d.intermediate_size, d.hidden_size),
            "down": (d.hidden_size, d.intermediate_size),
        }
        biased = ("q", "k", "v") * self.qkv_bias + ("o",) * self.output_bias + ("gate", "up", "down") * self.ffn_bias
        layer |= {f"{name}_bias": layer[name][:1] for name in biased}
        if self.qk_norm:
            layer |= {"q_norm": (d.head_size,), "k_norm": (d.head_size,)}
        named = {self.names[name]: shape for name, shape in shapes.items()}
        for index in range(d.num_layers):
            named |= {self.names[name].format(layer=index): shape for name, shape in layer.items()}
        return named
