"""Where config.json and the weights contradict each other, the bundle computes what transformers does, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeCheckpoint
from numpy.typing import NDArray
from packed_checkpoints import GPTQ_V1, Arrays, gptq, rounded, write_checkpoint
from safetensors.numpy import load_file

from skipstone.api import export, plan
from skipstone.errors import CheckpointError
from skipstone.runtime.engine import Draft, Model

Logits = NDArray[np.float32]
Reference = Callable[[Path, tuple[int, ...]], Logits]
TOKEN_IDS = tuple(np.random.default_rng(1).integers(3, 300, size=24).tolist())
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BIASES = [f"model.layers.{layer}.self_attn.{name}_proj.bias" for layer in range(4) for name in "qkvo"]


def changed(checkpoint: Path, target: Path, *, without: tuple[str, ...] = (), more: Arrays, **config: object) -> Path:
    """A copy of a checkpoint with other tensors and settings; `without` are tensors that are left out."""
    tensors = load_file(checkpoint / "model.safetensors") | more
    return write_checkpoint(target, checkpoint, {n: a for n, a in tensors.items() if n not in without}, **config)


def logits_of(checkpoint: Path, target: Path) -> Logits:
    export(checkpoint, target, precision="fp32")
    sequence = Model.open(target).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


def numbers(*shape: int) -> NDArray[np.float32]:
    return (np.random.default_rng(len(shape)).standard_normal(shape) / 4).astype(np.float32)


# Heads


@pytest.mark.parametrize(
    ("model_type", "head"), [("llama", HEAD), ("gemma3_text", HEAD), ("gpt2", HEAD), ("falcon", HEAD)]
)
def test_another_head_beside_a_tied_embedding_is_the_head(
    model_type: str, head: str, make_checkpoint: MakeCheckpoint, reference_logits: Reference, tmp_path: Path
) -> None:
    base = make_checkpoint(model_type, tie_word_embeddings=True, num_hidden_layers=2, hidden_size=64)
    checkpoint = changed(base, tmp_path / "in", more={head: numbers(307, 64)})
    wanted = reference_logits(checkpoint, TOKEN_IDS)
    np.testing.assert_allclose(logits_of(checkpoint, tmp_path / "out"), wanted, rtol=0, atol=1e-4)
    said = f"config.json says tie_word_embeddings, but {head} is stored and another matrix: it is the head"
    assert plan(checkpoint).remarks == (said,)


def test_a_head_that_equals_a_tied_embedding_is_left_out_in_silence(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    base = make_checkpoint(tie_word_embeddings=True)
    embedding = load_file(base / "model.safetensors")[EMBEDDING]
    checkpoint = changed(base, tmp_path / "in", more={HEAD: embedding})
    found = plan(checkpoint)
    assert found.architecture.tied_embedding and found.remarks == ()


def test_a_tied_head_that_is_stored_alone_is_the_embedding_too(
    make_checkpoint: MakeCheckpoint, reference_logits: Reference, tmp_path: Path
) -> None:
    base = make_checkpoint(tie_word_embeddings=True)
    embedding = load_file(base / "model.safetensors")[EMBEDDING]
    checkpoint = changed(base, tmp_path / "in", without=(EMBEDDING,), more={HEAD: embedding})
    wanted = reference_logits(checkpoint, TOKEN_IDS)
    np.testing.assert_allclose(logits_of(checkpoint, tmp_path / "out"), wanted, rtol=0, atol=1e-4)


def test_without_a_head_that_is_not_the_embedding_there_is_nothing_to_export(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = changed(tiny_checkpoint, tmp_path / "in", without=(HEAD,), more={})
    with pytest.raises(CheckpointError, match=r"holds no head: lm_head\.weight is missing.*AutoModelForCausalLM"):
        plan(checkpoint)


def test_a_head_beside_a_tied_embedding_needs_its_shape(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = changed(make_checkpoint(tie_word_embeddings=True), tmp_path / "in", more={HEAD: numbers(300, 52)})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight' has shape \[300, 52\]"):
        plan(checkpoint)


# Biases and layers


def test_biases_that_config_json_does_not_ask_for_are_left_out(
    tiny_checkpoint: Path, reference_logits: Reference, tmp_path: Path
) -> None:
    checkpoint = changed(tiny_checkpoint, tmp_path / "in", more={BIASES[0]: numbers(64), BIASES[3]: numbers(52)})
    wanted = reference_logits(checkpoint, TOKEN_IDS)
    np.testing.assert_allclose(logits_of(checkpoint, tmp_path / "out"), wanted, rtol=0, atol=1e-4)
    (said,) = plan(checkpoint).remarks
    assert said == f"config.json asks for no biases like {BIASES[3]}: 2 are stored and left out"


@pytest.mark.parametrize("missing", ["qkvo", "k", "q", "o"])
def test_biases_that_are_not_stored_at_all_are_zeros(
    missing: str, make_checkpoint: MakeCheckpoint, reference_logits: Reference, tmp_path: Path
) -> None:
    base = make_checkpoint(attention_bias=True)
    without = tuple(name for name in BIASES if name.split("_proj")[0][-1] in missing)
    checkpoint = changed(base, tmp_path / "in", without=without, more={})
    wanted = reference_logits(checkpoint, TOKEN_IDS)
    np.testing.assert_allclose(logits_of(checkpoint, tmp_path / "out"), wanted, rtol=0, atol=1e-4)
    (said,) = plan(checkpoint).remarks
    assert said.endswith("is stored, which config.json asks for: these biases are zeros")


def test_a_bias_that_one_layer_lacks_is_missing(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = changed(make_checkpoint(attention_bias=True), tmp_path / "in", without=(BIASES[4],), more={})
    with pytest.raises(CheckpointError, match=f"lacks the tensor {BIASES[4]}"):
        plan(checkpoint)


def test_layers_beyond_those_that_config_json_counts_are_left_out(
    tiny_checkpoint: Path, reference_logits: Reference, tmp_path: Path
) -> None:
    checkpoint = changed(tiny_checkpoint, tmp_path / "in", more={}, num_hidden_layers=2)
    wanted = reference_logits(checkpoint, TOKEN_IDS)
    np.testing.assert_allclose(logits_of(checkpoint, tmp_path / "out"), wanted, rtol=0, atol=1e-4)
    assert plan(checkpoint).remarks == ("config.json counts 2 of the 4 layers that are stored: the model ends there",)


@pytest.mark.parametrize(
    "config", [{"num_key_value_heads": 4}, {"head_dim": 8}, {"vocab_size": 300}, {"intermediate_size": 80}]
)
def test_a_size_with_which_transformers_cannot_load_the_weights_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, config: dict[str, int]
) -> None:
    checkpoint = changed(tiny_checkpoint, tmp_path / "in", more={}, **config)
    with pytest.raises(CheckpointError, match=r"has shape .* asks for .*: they do not belong together"):
        plan(checkpoint)


# Zero points


def symmetric_gptq(plain: Path, target: Path, *, stored: int, bits: int, **settings: object) -> tuple[Path, Path]:
    """A GPTQ checkpoint with these stored zero points whatever its label says, and one of the numbers it stands for."""
    middle, packed, numbers = 1 << (bits - 1), {}, {}
    for name, weight in load_file(plain / "model.safetensors").items():
        packed[name] = numbers[name] = weight
        if "_proj" in name:
            grid = rounded(weight, bits=bits, group_size=32, shuffled=False)
            grid.zero_points[:] = middle
            pieces = gptq(grid, minus=middle - stored)
            del packed[name]
            packed |= {f"{name.removesuffix('weight')}{piece}": array for piece, array in pieces.items()}
            numbers[name] = grid.matrix()
    label = GPTQ_V1 | {"bits": bits} | settings
    return (
        write_checkpoint(target / "packed", plain, packed, quantization_config=label),
        write_checkpoint(target / "numbers", plain, numbers),
    )


@pytest.mark.parametrize(
    ("label", "stored", "bits", "meant"),
    [
        ("gptq", 8, 4, "gptq_v2"),
        ("gptq", 128, 8, "gptq_v2"),
        ("gptq_v2", 7, 4, "gptq"),
        ("gptq", 7, 4, None),
        ("gptq_v2", 8, 4, None),
    ],
)
def test_symmetric_zero_points_stand_in_the_middle_whatever_the_version_says(
    label: str, stored: int, bits: int, meant: str | None, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    plain = make_checkpoint("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    settings = {"sym": True, "checkpoint_format": label}
    packed, numbers = symmetric_gptq(plain, tmp_path, stored=stored, bits=bits, **settings)
    found, name = plan(packed), "model.layers.0.mlp.down_proj.weight"
    np.testing.assert_array_equal(
        found.checkpoint.tensors.read(name, (64, 96)), load_file(numbers / "model.safetensors")[name]
    )
    told = [remark for remark in found.remarks if "zero points" in remark]
    said = (
        f"quantization_config says format {label}, but zero points of {stored} with sym only {meant} can mean: read so"
    )
    assert told == ([said] if meant else [])


def test_zero_points_that_need_not_be_in_the_middle_are_those_of_the_version(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    plain = make_checkpoint("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    packed, _ = symmetric_gptq(plain, tmp_path, stored=8, bits=4, sym=False)
    found, name = plan(packed), "model.layers.0.mlp.down_proj.weight"
    matrix = found.checkpoint.tensors.read_quantized(name, (64, 96))
    assert matrix.zero_points is not None and (matrix.zero_points & 15 == 9).all()
    assert not [remark for remark in found.remarks if "zero points" in remark]


# Quantization that is said, and quantization that is there


@pytest.mark.parametrize("method", ["fp8", "bitsandbytes", "gptq", "awq"])
def test_weights_that_are_numbers_are_read_as_such_whatever_config_json_calls_them(
    method: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = {"quant_method": method, "bits": 4, "group_size": 32}
    checkpoint = changed(tiny_checkpoint, tmp_path / "in", more={}, quantization_config=settings)
    found = plan(checkpoint)
    assert found.remarks == (f"config.json says {method}, but all weights are numbers: read as such",)
    name = "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(
        found.checkpoint.tensors.read(name, (76, 52)), load_file(tiny_checkpoint / "model.safetensors")[name]
    )


def packed_without_a_label(make_checkpoint: MakeCheckpoint, target: Path) -> Path:
    plain = make_checkpoint("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    packed, _ = symmetric_gptq(plain, target, stored=7, bits=4, sym=True)
    config = json.loads((packed / "config.json").read_text())
    del config["quantization_config"]
    (packed / "config.json").write_text(json.dumps(config))
    return packed


def test_the_file_that_autogptq_writes_says_what_the_integers_are(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    packed = packed_without_a_label(make_checkpoint, tmp_path)
    (packed / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "sym": True}))
    wanted = load_file(tmp_path / "numbers" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    found = plan(packed).checkpoint.tensors.read("model.layers.0.mlp.up_proj.weight", (96, 64))
    np.testing.assert_array_equal(found, wanted)


def test_integers_of_which_no_file_says_what_they_are_are_refused_by_name(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"holds model\.layers\.0\..*qweight, integers as of GPTQ or AWQ, but"):
        plan(packed_without_a_label(make_checkpoint, tmp_path))
