"""What a careful new user stumbled over, each once."""

from __future__ import annotations

import onnx
import pytest
from conftest import MakeBundle, MakeCheckpoint

from skipstone.check import part_sizes
from skipstone.runtime.bundle import Bundle

MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("model_type", "settings", "others"),
    [
        ("gpt2", {}, {"ffn", "attention", "head", "embedding", "learned positions"}),
        ("gpt_neox", {"hidden_size": 64}, {"ffn", "attention", "head", "embedding"}),
        ("mixtral", MIXTURE, {"experts", "attention", "head", "embedding"}),
    ],
)
def test_inspect_counts_nothing_but_norms_as_norms(
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    model_type: str,
    settings: dict[str, object],
    others: set[str],
) -> None:
    bundle = make_bundle(make_checkpoint(model_type, **settings))
    graph = onnx.load(bundle / "stage-00.onnx", load_external_data=False).graph
    norms = [tensor for tensor in graph.initializer if "norm" in tensor.name and tensor.external_data]
    sizes = part_sizes(Bundle.open(bundle))
    assert sizes["norms"] == sum(4 * tensor.dims[0] for tensor in norms)
    assert set(sizes) == others | {"norms"}
