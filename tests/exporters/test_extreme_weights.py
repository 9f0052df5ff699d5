"""Weights at the ends of what floats hold: each is stored as it is, rounded, or refused by name, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from gguf_files import KINDS, write
from numpy.typing import NDArray
from packed_checkpoints import GPTQ_V1, gptq, rounded, write_checkpoint
from safetensors.numpy import load_file

from skipstone.api import export
from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.gguf.tensors import GgufTensor, GgufTensors
from skipstone.quant import quantize
from skipstone.runtime.engine import Draft, Model

Array = NDArray[Any]
TOKEN_IDS = tuple(range(3, 40))
NAMES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "norm": "model.layers.0.input_layernorm.weight",
    "final norm": "model.norm.weight",
    "projection": "model.layers.1.self_attn.q_proj.weight",
    "ffn": "model.layers.0.mlp.down_proj.weight",
    "bias": "model.layers.0.self_attn.k_proj.bias",
}
MATRICES = ("embedding", "head", "projection", "ffn")


@pytest.fixture
def changed(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Callable[..., Path]:
    """Make a checkpoint of which the first number of a tensor is another, or all are `times` as large."""

    def make(place: str, value: float | None = None, *, times: float = 1.0, dtype: type = np.float32) -> Path:
        base = make_checkpoint(attention_bias=True, num_hidden_layers=2)
        tensors = {name: array.astype(dtype) for name, array in load_file(base / "model.safetensors").items()}
        array = tensors[NAMES[place]] * dtype(times)
        if value is not None:
            array.reshape(-1)[0] = value
        return write_checkpoint(tmp_path / "in", base, tensors | {NAMES[place]: array})

    return make


def logits_of(bundle: Path) -> NDArray[np.float32]:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


@pytest.mark.parametrize("value", [2e37, -3.4e38])
@pytest.mark.parametrize("precision", ["int4", "int4-fast", "int8"])
@pytest.mark.parametrize("place", MATRICES)
def test_a_weight_too_large_for_integers_is_refused_by_name(
    place: str, precision: str, value: float, changed: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"weights as large as .* cannot be rounded to [48] bits.*fp32"):
        export(changed(place, value), tmp_path / "out", precision=precision)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", NAMES)
def test_in_fp32_the_largest_weight_is_stored_as_it_is(
    place: str, changed: Callable[..., Path], tmp_path: Path
) -> None:
    export(changed(place, 3e38), tmp_path / "out", precision="fp32")
    assert (np.frombuffer((tmp_path / "out" / "weights.bin").read_bytes(), np.float32) == np.float32(3e38)).any()


@pytest.mark.parametrize("precision", ["int4", "fp32"])
@pytest.mark.parametrize("place", ["norm", "final norm", "bias"])
def test_vectors_are_never_rounded(place: str, precision: str, changed: Callable[..., Path], tmp_path: Path) -> None:
    export(changed(place, 2e37), tmp_path / "out", precision=precision)


@pytest.mark.parametrize("precision", ["int4", "int8", "fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", NAMES)
def test_what_is_no_number_is_refused_by_name(
    place: str, value: float, precision: str, changed: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"'{NAMES[place]}' holds 1 NaN or infinite values"):
        export(changed(place, value), tmp_path / "out", precision=precision)


def test_a_number_beyond_float32_is_refused_as_such(changed: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds 1 NaN or infinite values among 3952, read as float32"):
        export(changed("ffn", 1e300, dtype=np.float64), tmp_path / "out", precision="int4")


@pytest.mark.parametrize("precision", ["int4", "int8", "fp32"])
@pytest.mark.parametrize("times", [0.0, -0.0, 1e-30, 1e-42])
@pytest.mark.parametrize("place", MATRICES)
def test_zeros_and_the_smallest_weights_give_finite_logits(
    place: str, times: float, precision: str, changed: Callable[..., Path], tmp_path: Path
) -> None:
    export(changed(place, times=times), tmp_path / "out", precision=precision)
    assert np.isfinite(logits_of(tmp_path / "out")).all()


def test_a_factor_of_the_model_that_makes_a_weight_infinite_is_named(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    base = make_checkpoint("granite", hidden_size=64, num_hidden_layers=1, residual_multiplier=4.0)
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = 3e38
    checkpoint = write_checkpoint(tmp_path / "in", base, tensors)
    with pytest.raises(CheckpointError, match=r"layers\.0\.down.*factors make them infinite"):
        export(checkpoint, tmp_path / "out", precision="fp32")


def test_an_expert_too_large_for_integers_is_refused_by_name(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint("mixtral", num_local_experts=2, num_experts_per_tok=1, num_hidden_layers=1)
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.block_sparse_moe.experts.1.w2.weight"][0, 0] = 2e37
    checkpoint = write_checkpoint(tmp_path / "in", base, tensors)
    with pytest.raises(CheckpointError, match=r"layers\.0\.experts.*weights as large as 2e\+37"):
        export(checkpoint, tmp_path / "out", precision="int8")


# Integers that a checkpoint brings


@pytest.mark.parametrize("scale", [np.inf, np.nan])
def test_scales_of_gptq_that_are_no_numbers_are_refused(
    scale: float, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    base = make_checkpoint("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    tensors = load_file(base / "model.safetensors")
    stem = "model.layers.0.mlp.down_proj"
    pieces = gptq(rounded(tensors.pop(f"{stem}.weight"), bits=4, group_size=32, shuffled=False))
    pieces["scales"][0, 0] = scale
    packed = tensors | {f"{stem}.{piece}": array for piece, array in pieces.items()}
    checkpoint = write_checkpoint(tmp_path / "in", base, packed, quantization_config=GPTQ_V1)
    with pytest.raises(CheckpointError, match=f"'{stem}.scales' holds 1 NaN or infinite values"):
        export(checkpoint, tmp_path / "out", precision="int4")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_numbers_of_gguf_that_are_infinite_are_refused(kind: str, tmp_path: Path) -> None:
    array = np.ones((2, 32), np.float32)
    array[1, 3] = np.inf
    write(tmp_path / "a.gguf", "llama", {}, {"w": (array, KINDS[kind])})
    blocks = GgufFile.open(tmp_path / "a.gguf").tensors["w"]
    with pytest.raises(CheckpointError, match="'w' holds 1 NaN or infinite values"):
        GgufTensors({"w": GgufTensor(blocks=blocks)}).read("w", (2, 32))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_weights_that_can_be_rounded_stay_finite(bits: int, symmetric: bool) -> None:
    weight = np.random.default_rng(0).uniform(-9.9e36, 9.9e36, (4, 64)).astype(np.float32)
    found = quantize(weight, bits=bits, block_size=32, symmetric=symmetric).dequantize()
    assert np.isfinite(found).all() and np.abs(found / 1e36 - weight / 1e36).max() < 20 / 2 ** (bits - 1)
