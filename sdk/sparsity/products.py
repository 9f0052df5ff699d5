"""The products of one layer: what activation sparsity may skip, and how much work each is.

Work is multiply-adds for one token. All shares here are of the work of a layer's products, or of its FFN's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from skipstone.errors import UnsupportedModel
from skipstone.exporters.families import Architecture
from skipstone.exporters.graph import kernel_head_size

__all__ = ["FFN", "Product", "products_of", "refuse_sparsity", "work_of"]

FFN: Final = ("gate", "up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product with a stored matrix, or with some of its columns, which are those from `start` to `end`.

    `num_inputs` and `num_outputs` are those of the checkpoint, without channels that only fill up heads.
    """

    name: str
    matrix: str
    start: int
    end: int
    num_inputs: int
    num_outputs: int

    @property
    def work(self) -> int:
        return self.num_inputs * self.num_outputs


def products_of(architecture: Architecture, layer: int) -> tuple[Product, ...]:
    """Return the products of a layer, in the order in which it runs them."""
    attention = _attention(architecture) if architecture.has_attention(layer) else ()
    ffn = _ffn(architecture, architecture.ffn_widths[layer]) if architecture.has_ffn(layer) else ()
    return (*attention, *ffn)


def _attention(architecture: Architecture) -> Iterator[Product]:
    d, start = architecture.dimensions, 0
    size = kernel_head_size(d.head_size)
    for name, heads in (("q", d.num_heads), ("k", d.num_kv_heads), ("v", d.num_kv_heads)):
        yield Product(
            name=name,
            matrix="qkv",
            start=start,
            end=start + heads * size,
            num_inputs=d.hidden_size,
            num_outputs=heads * d.head_size,
        )
        start += heads * size
    inner = d.num_heads * d.head_size
    yield Product(name="o", matrix="o", start=0, end=d.hidden_size, num_inputs=inner, num_outputs=d.hidden_size)


def _ffn(architecture: Architecture, width: int) -> Iterator[Product]:
    hidden, is_gated = architecture.dimensions.hidden_size, _is_gated(architecture)
    matrix = "gate_up" if is_gated else "up"
    for number, name in enumerate(("gate", "up") if is_gated else ("up",)):
        start = number * width
        yield Product(name=name, matrix=matrix, start=start, end=start + width, num_inputs=hidden, num_outputs=width)
    yield Product(name="down", matrix="down", start=0, end=hidden, num_inputs=width, num_outputs=hidden)


def _is_gated(architecture: Architecture) -> bool:
    return architecture.has("gate") or architecture.has("gate_up")


def refuse_sparsity(architecture: Architecture) -> None:
    """Raise UnsupportedModel where layers cannot run apart, or their FFNs are experts already."""
    reasons = {
        "its FFNs are experts, of which each token takes few already": architecture.experts is not None,
        "its layers share streams, so they cannot run apart": architecture.altup is not None,
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        raise UnsupportedModel(f"{architecture.family}: {reason}; sparsity is judged on dense models")


def work_of(products: Sequence[Product], names: Collection[str] | None = None) -> int:
    """Return the work of some products, or of all."""
    return sum(product.work for product in products if names is None or product.name in names)
