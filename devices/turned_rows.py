"""Graphs for providers whose attention turns rows by their number in the cache, whatever positions they are given.

Then drafts that branch, windows and the angles of long texts would be wrong. Here queries and keys are turned by a node
of their own before attention, which heeds positions everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["turned_before"]

MICROSOFT: Final = "com.microsoft"
# Inputs of GroupQueryAttention, by number.
QUERY, KEY, VALUE, COSINES, SINES, POSITIONS = 0, 1, 2, 7, 8, 9


def turned_before(path: Path) -> bytes | None:
    """Return the graph in a file with rows turned before attention; None where attention turns none.

    Tensors that lie in other files stay there. Cost: reads and writes the graph, without the weights beside it.
    """
    import onnx  # heavy, and only such providers need it

    model = onnx.load(path, load_external_data=False)
    turning = [node for node in model.graph.node if _turns(node)]
    if not turning:
        return None
    head_size = next(
        value.type.tensor_type.shape.dim[3].dim_value
        for value in model.graph.input
        if value.name.startswith("past_key")
    )
    nodes = [new for node in model.graph.node for new in (_turned(node, head_size) if _turns(node) else [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _turns(node: Any) -> bool:
    return node.op_type == "GroupQueryAttention" and bool(_attributes(node).get("do_rotary"))


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _turned(node: Any, head_size: int) -> Iterator[Any]:
    """Yield nodes that split packed rows, turn queries and keys, and attend without turning."""
    from onnx import helper

    attention = _Attention(node.output[0], _attributes(node), head_size)
    inputs = list(node.input)
    if not inputs[KEY]:
        inputs[QUERY : VALUE + 1] = attention.parts
        yield from attention.split(node.input[QUERY])
    for place, kind in ((QUERY, "num_heads"), (KEY, "kv_num_heads")):
        turned = f"{node.output[0]}_turned_{place}"
        yield helper.make_node(
            "RotaryEmbedding",
            [inputs[place], *(node.input[number] for number in (POSITIONS, COSINES, SINES))],
            [turned],
            domain=MICROSOFT,
            num_heads=attention.attributes[kind],
            interleaved=attention.attributes.get("rotary_interleaved", 0),
        )
        inputs[place] = turned
    for place in (COSINES, SINES, POSITIONS):
        inputs[place] = ""
    yield helper.make_node(
        node.op_type,
        inputs,
        list(node.output),
        name=node.name,
        domain=node.domain,
        **attention.attributes | {"do_rotary": 0},
    )


@dataclass(frozen=True, slots=True)
class _Attention:
    """A node of attention; `name` begins the names of what is made for it."""

    name: str
    attributes: dict[str, Any]
    head_size: int

    @property
    def parts(self) -> list[str]:
        """The names of queries, keys and values once they are split."""
        return [f"{self.name}_{part}" for part in ("query", "key", "value")]

    def split(self, packed: str) -> Iterator[Any]:
        """Yield nodes that split packed rows into queries, keys and values."""
        from onnx import TensorProto, helper

        sizes = [self.attributes[kind] * self.head_size for kind in ("num_heads", "kv_num_heads", "kv_num_heads")]
        tensor = helper.make_tensor("sizes", TensorProto.INT64, [3], sizes)
        yield helper.make_node("Constant", [], [f"{self.name}_sizes"], value=tensor)
        yield helper.make_node("Split", [packed, f"{self.name}_sizes"], self.parts, axis=-1)
