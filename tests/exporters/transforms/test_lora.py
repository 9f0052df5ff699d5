"""LoRA adapters: what is read is what PEFT merges, and nothing of an adapter is dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st
from lora_adapters import saved, trained
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints import StoredTensors, safetensors_in
from skipstone.exporters.families import Architecture, read_architecture
from skipstone.exporters.transforms import Lora, apply
from skipstone.exporters.transforms.lora import MergedTensors, merged
from skipstone.quant import QuantizedMatrix

Arrays = dict[str, NDArray[Any]]
PREFIX = "base_model.model."
TIED = ("model.embed_tokens.weight", "lm_head.weight")
SMALL = {"num_hidden_layers": 2}
TARGETS = ["q_proj", "v_proj", "down_proj"]


def weights_of(checkpoint: Path) -> StoredTensors:
    return StoredTensors(safetensors_in(checkpoint / "model.safetensors"))


def architecture_of(checkpoint: Path) -> Architecture:
    return read_architecture(json.loads((checkpoint / "config.json").read_text()))


# The same numbers as PEFT

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {"lora_alpha": 12}),
    "every linear layer, rank-stabilized": ("llama", {}, {"use_rslora": True, "target_modules": "all-linear"}),
    "patterns": (
        "llama",
        {},
        {
            "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 8},
            "alpha_pattern": {"layers.0.mlp.down_proj": 3.5, "proj": 5},
        },
    ),
    "dora": ("llama", {}, {"use_dora": True}),
    "embedding and head": ("llama", {}, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "embedding, dora": ("llama", {}, {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    "all biases": ("llama", {"attention_bias": True, "mlp_bias": True}, {"bias": "all"}),
    "biases of the changed": ("llama", {"attention_bias": True, "mlp_bias": True}, {"bias": "lora_only"}),
    "biases of B": ("llama", {"attention_bias": True, "mlp_bias": True}, {"lora_bias": True}),
    "whole modules": ("llama", {}, {"modules_to_save": ["lm_head", "embed_tokens", "norm"]}),
    "gpt2": ("gpt2", {}, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "gpt2, dora": ("gpt2", {}, {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_merged_weights_are_those_of_peft(name: str, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    model_type, base, config = CASES[name]
    checkpoint = make_checkpoint(model_type, **SMALL, **base)
    adapted = trained(checkpoint, **{"target_modules": TARGETS, **config})
    tensors = merged(weights_of(checkpoint), saved(adapted, tmp_path), tied=None)
    wanted = adapted.merge_and_unload().state_dict()
    before = load_file(checkpoint / "model.safetensors")
    assert tensors.names() == before.keys()
    for weight, old in before.items():
        found, new = tensors.read(weight, old.shape), wanted[weight].numpy()
        assert found.dtype == np.float32 and found.flags.c_contiguous
        np.testing.assert_allclose(found, new, rtol=1e-6, atol=1e-6 * np.abs(new).max())
        assert (weight in tensors.changed) == bool(np.abs(found - old).max() > 1e-3)


def test_an_old_file_of_torch_reads_the_same(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(**SMALL)
    folder = saved(trained(checkpoint, target_modules=TARGETS), tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors = merged(weights_of(checkpoint), folder, tied=None)
    wanted = tensors.read(name, tensors.shape(name))
    file = folder / "adapter_model.safetensors"
    torch.save({name: torch.tensor(array) for name, array in load_file(file).items()}, folder / "adapter_model.bin")
    file.unlink()
    again = merged(weights_of(checkpoint), folder, tied=None)
    np.testing.assert_array_equal(again.read(name, again.shape(name)), wanted)


def test_a_base_model_saved_without_the_first_word_of_its_names_is_found(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint("gpt2", **SMALL)
    folder = saved(trained(checkpoint, target_modules=["c_attn"]), tmp_path / "adapter")
    shorter = {
        name.removeprefix("transformer."): array for name, array in load_file(checkpoint / "model.safetensors").items()
    }
    save_file(shorter, tmp_path / "model.safetensors")
    whole, short = (merged(weights_of(path), folder, tied=None) for path in (checkpoint, tmp_path))
    name = "h.1.attn.c_attn.weight"
    assert name in short.changed
    shape = short.shape(name)
    np.testing.assert_array_equal(short.read(name, shape), whole.read(f"transformer.{name}", shape))


# One matrix for embedding and head


def test_an_adapter_that_leaves_a_tied_matrix_alone_is_merged(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(tie_word_embeddings=True, **SMALL)
    folder = saved(trained(checkpoint, target_modules=TARGETS), tmp_path)
    assert len(merged(weights_of(checkpoint), folder, tied=TIED).changed) == 6


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": TARGETS, "modules_to_save": ["embed_tokens"]},
        {"target_modules": TARGETS, "modules_to_save": ["lm_head"]},
    ],
)
def test_a_change_of_only_one_of_two_tied_matrices_is_refused(
    config: dict[str, Any], tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint(tie_word_embeddings=True, **SMALL)
    folder = saved(trained(checkpoint, **config), tmp_path)
    with pytest.raises(UnsupportedModel, match=r"the adapter changes .* and not .*one matrix"):
        apply([Lora(folder)], architecture_of(checkpoint), weights_of(checkpoint))


def test_different_changes_of_tied_matrices_are_refused(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(tie_word_embeddings=True, **SMALL)
    folder = saved(trained(checkpoint, target_modules=["embed_tokens", "lm_head"]), tmp_path)
    with pytest.raises(UnsupportedModel, match=r"makes 'model\.embed_tokens\.weight' and 'lm_head\.weight' differ"):
        apply([Lora(folder)], architecture_of(checkpoint), weights_of(checkpoint))


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": TARGETS, "modules_to_save": ["embed_tokens"]},
    ],
)
def test_equal_changes_of_tied_matrices_give_the_logits_of_the_adapter(
    config: dict[str, Any], tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    """PEFT's own merge would add the change twice to the shared matrix, so its logits before merging are compared."""
    checkpoint = make_checkpoint(tie_word_embeddings=True, **SMALL)
    adapted = trained(checkpoint, ensure_weight_tying=True, **config)
    lora = Lora(saved(adapted, tmp_path))
    architecture = architecture_of(checkpoint)
    same, tensors, transforms = apply([lora], architecture, weights_of(checkpoint))
    assert same is architecture and transforms == (lora,)
    assert isinstance(tensors, MergedTensors) and tensors.changed >= {*TIED} and TIED[1] not in tensors.names()
    plain = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    plain.load_state_dict(
        {name: torch.tensor(tensors.read(name, tensors.shape(name))) for name in tensors.names()}, strict=False
    )
    token_ids = torch.tensor([[5, 3, 200, 17, 80]])
    with torch.no_grad():
        np.testing.assert_allclose(plain(token_ids).logits, adapted(token_ids).logits, rtol=1e-4, atol=1e-4)


# Adapters made by hand


class Base:
    """A TensorSource of plain arrays; names in `integers` count as stored in integers."""

    def __init__(self, arrays: Arrays, integers: tuple[str, ...] = ()) -> None:
        self.arrays, self.integers = arrays, integers

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def names(self) -> frozenset[str]:
        return frozenset(self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        assert shape == self.arrays[name].shape
        return self.arrays[name].astype(np.float32)

    def is_quantized(self, name: str) -> bool:
        return name in self.integers

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        raise NotImplementedError


def random_arrays(**shapes: tuple[int, ...]) -> Arrays:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


BASE = Base({f"layer.{name}": array for name, array in random_arrays(weight=(6, 5), bias=(6,)).items()})
FACTORS = {f"{PREFIX}layer.lora_{name}.weight": array for name, array in random_arrays(A=(2, 5), B=(6, 2)).items()}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 3}


def write_adapter(folder: Path, tensors: Mapping[str, NDArray[Any]], **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapter")


@given(
    outputs=st.integers(1, 7),
    inputs=st.integers(1, 7),
    rank=st.integers(1, 5),
    alpha=st.floats(-4, 4, width=32),
    rank_stabilized=st.booleans(),
    dora=st.booleans(),
    transposed=st.booleans(),
)
def test_every_merged_weight_is_what_the_formula_says(
    scratch: Path,
    outputs: int,
    inputs: int,
    rank: int,
    alpha: float,
    rank_stabilized: bool,
    dora: bool,
    transposed: bool,
) -> None:
    arrays = random_arrays(weight=(outputs, inputs), a=(rank, inputs), b=(outputs, rank), m=(outputs,))
    weight, a, b, m = arrays.values()
    parts = {"lora_A.weight": a, "lora_B.weight": b} | ({"lora_magnitude_vector": m} if dora else {})
    base = Base({"x.w.weight": np.ascontiguousarray(weight.T) if transposed else weight})
    folder = write_adapter(
        scratch,
        {f"{PREFIX}x.w.{part}": array for part, array in parts.items()},
        **{"r": rank, "lora_alpha": alpha, "use_rslora": rank_stabilized},
        **{"use_dora": dora, "fan_in_fan_out": transposed},
    )
    tensors = merged(base, folder, tied=None)
    found = tensors.read("x.w.weight", tensors.shape("x.w.weight"))
    scale = alpha / (rank**0.5 if rank_stabilized else rank)
    for n in range(outputs):
        row = [weight[n, k] + scale * sum(float(b[n, r]) * a[r, k] for r in range(rank)) for k in range(inputs)]
        length = sum(value**2 for value in row) ** 0.5
        wanted = [value * m[n] / length if dora else value for value in row]
        np.testing.assert_allclose(found[:, n] if transposed else found[n], wanted, rtol=1e-3, atol=1e-5)


def test_what_an_adapter_does_not_name_stays(scratch: Path) -> None:
    tensors = merged(BASE, write_adapter(scratch, FACTORS), tied=None)
    assert tensors.changed == {"layer.weight"}
    np.testing.assert_array_equal(tensors.read("layer.bias", (6,)), BASE.arrays["layer.bias"])
    assert tensors.num_bytes == BASE.num_bytes


@pytest.mark.parametrize("name", ["layer.weight", "layer.modules_to_save.weight", "layer.base_layer.weight"])
def test_a_whole_tensor_takes_the_place_of_its_base(scratch: Path, name: str) -> None:
    new = np.full((6, 5), 2.5, np.float16)
    tensors = merged(BASE, write_adapter(scratch, {f"{PREFIX}{name}": new}), tied=None)
    np.testing.assert_array_equal(tensors.read("layer.weight", (6, 5)), new.astype(np.float32))
    both = merged(BASE, write_adapter(scratch, {f"{PREFIX}{name}": new, **FACTORS}), tied=None)
    a, b = FACTORS.values()
    np.testing.assert_allclose(both.read("layer.weight", (6, 5)), 2.5 + 1.5 * (b @ a), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "type 'IA3' are not supported, only LORA.*merge_and_unload"),
        ({"peft_type": None}, "type None"),
        ({"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens = \[1, 2\]"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"use_qalora": True}, "use_qalora"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'.*changed base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(scratch: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        merged(BASE, write_adapter(scratch, FACTORS, **config), tied=None)


def test_an_adapter_is_not_added_to_integers(scratch: Path) -> None:
    base = Base(BASE.arrays, integers=("layer.weight",))
    with pytest.raises(UnsupportedModel, match=r"'layer\.weight', which is stored as integers.*before quantization"):
        merged(base, write_adapter(scratch, FACTORS), tied=None)
    bias = merged(base, write_adapter(scratch, {f"{PREFIX}layer.bias": np.ones(6, np.float32)}), tied=None)
    assert bias.is_quantized("layer.weight") and not bias.is_quantized("layer.bias")


def test_a_vector_gets_no_factors(scratch: Path) -> None:
    base = Base({"layer.weight": np.ones(6, np.float32)})
    with pytest.raises(UnsupportedModel, match=r"'layer\.weight' \[6\], which is no matrix"):
        merged(base, write_adapter(scratch, FACTORS), tied=None)


ONE = np.ones((2, 5), np.float32)


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({f"{PREFIX}other.lora_A.weight": ONE}, {}, "lora_A.weight' changes 'other.weight', which the checkpoint does"),
        ({f"{PREFIX}layer.lora_diag": ONE}, {}, "lora_diag' changes 'layer.lora_diag'"),
        ({f"{PREFIX}layer.lora_A.default.weight": ONE}, {}, "changes 'layer.lora_A.default.weight'"),
        ({"layer.lora_A.weight": ONE}, {}, "'layer.lora_A.weight' has another name than PEFT gives"),
        ({f"{PREFIX}layer.lora_A.weight": ONE}, {}, "only one of lora_A and lora_B for 'layer.weight'"),
        ({f"{PREFIX}layer.lora_magnitude_vector": np.ones(6, np.float32)}, {}, "has one lora_magnitude_vector"),
        (FACTORS, {"use_dora": True}, "has none lora_magnitude_vector for 'layer.weight', with use_dora = True"),
        (
            FACTORS | {f"{PREFIX}layer.lora_magnitude_vector": np.ones(5, np.float32)},
            {"use_dora": True},
            r"lora_magnitude_vector' has shape \[5\], wanted \[6\]",
        ),
        (FACTORS, {"r": 3}, r"lora_A.weight' has shape \[2, 5\], wanted \[3, 5\].*rank 3"),
        (FACTORS, {"rank_pattern": {"layer": 4}}, "rank 4"),
        (FACTORS, {"fan_in_fan_out": True}, r"lora_A.weight' has shape \[2, 5\], wanted \[2, 6\]"),
        (FACTORS, {"r": 0}, "the rank of 'layer.weight' must be a positive whole number, found 0"),
        (FACTORS, {"r": None}, "found None"),
        (FACTORS, {"lora_alpha": "many"}, "the alpha of 'layer.weight' must be a number, found 'many'"),
        (FACTORS, {"alpha_pattern": {"(": 1}}, r"'\(' is not a pattern"),
        (FACTORS, {"rank_pattern": {"(.*a+)+": 4}}, "may never end to be matched"),
        (FACTORS, {"alpha_pattern": {r"(q|k)\1": 4}}, "may never end to be matched"),
        (FACTORS, {"lora_alpha": 10**400}, "the alpha of .* must be a number"),
        (FACTORS, {"r": 10**400}, "must be a positive whole number"),
        (FACTORS, {"lora_alpha": float("nan")}, "the alpha of .* must be a number"),
        (FACTORS, {"rank_pattern": [4]}, r"patterns and their values, found \[4\]"),
        ({f"{PREFIX}layer.bias": np.ones(7, np.float32)}, {}, r"layer.bias' has shape \[7\], wanted \[6\]"),
        (
            {f"{PREFIX}layer.bias": np.ones(6, np.float32), f"{PREFIX}layer.modules_to_save.bias": np.ones(6)},
            {},
            "'base_model.model.layer.bias' and .* both change 'layer.bias'",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    scratch: Path, tensors: Arrays, config: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        merged(BASE, write_adapter(scratch, tensors, **config), tied=None)


def test_two_names_for_one_tensor_are_refused(scratch: Path) -> None:
    bias = np.ones(6, np.float32)
    folder = write_adapter(scratch, {f"{PREFIX}layer.bias": bias, f"{PREFIX}model.layer.bias": bias})
    with pytest.raises(CheckpointError, match=r"two names of the adapter mean the tensor 'layer\.bias'"):
        merged(BASE, folder, tied=None)


def test_a_sum_that_is_no_number_is_refused(scratch: Path) -> None:
    huge = {name: np.full_like(array, 1e38) for name, array in FACTORS.items()}
    with pytest.raises(CheckpointError, match=r"'layer\.weight' holds NaN or infinite values once the adapter"):
        merged(BASE, write_adapter(scratch, huge), tied=None).read("layer.weight", (6, 5))


def test_a_folder_that_is_no_adapter_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(CheckpointError, match=r"no adapter_config\.json: pass the folder of a PEFT adapter"):
            merged(BASE, folder, tied=None)
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(
        CheckpointError, match=r"no weights: looked for adapter_model\.safetensors, .*adapter_model\.bin"
    ):
        merged(BASE, tmp_path, tied=None)
