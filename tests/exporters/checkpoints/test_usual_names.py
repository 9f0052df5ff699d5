"""Names of tensors that a wrapper, or the class without a head, made: the same model, and said once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeCheckpoint
from numpy.typing import NDArray
from packed_checkpoints import write_checkpoint
from safetensors.numpy import load_file

from skipstone.api import export, plan
from skipstone.errors import CheckpointError
from skipstone.runtime.engine import Draft, Model

TOKEN_IDS = tuple(range(3, 30))
Rename = Callable[[str], str]
WRAPPERS: dict[str, tuple[Rename, tuple[str, ...]]] = {
    "torch.compile": (lambda name: f"_orig_mod.{name}", ("_orig_mod.",)),
    "DataParallel": (lambda name: f"module.{name}", ("module.",)),
    "both": (lambda name: f"module._orig_mod.{name}", ("_orig_mod.", "module.")),
    "both, the other way round": (lambda name: f"_orig_mod.module.{name}", ("_orig_mod.", "module.")),
    "PEFT": (lambda name: f"base_model.model.{name}", ("base_model.model.",)),
    "compiled layers": (
        lambda name: name.replace("layers.0.", "layers.0._orig_mod.").replace("h.0.", "h.0._orig_mod."),
        ("_orig_mod.",),
    ),
    "a part of a larger model": (lambda name: f"policy.{name}", ("policy.",)),
}


def logits_of(bundle: Path) -> NDArray[np.float32]:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


def renamed(base: Path, target: Path, rename: Rename, *, without: str = "") -> Path:
    tensors = load_file(base / "model.safetensors")
    return write_checkpoint(target, base, {rename(name): a for name, a in tensors.items() if name != without})


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "olmo2"])
def test_a_wrapped_model_is_the_model(
    model_type: str, wrapper: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    base = make_checkpoint(model_type, num_hidden_layers=2, hidden_size=64)
    rename, words = WRAPPERS[wrapper]
    checkpoint = renamed(base, tmp_path / "in", rename)
    found, usual = plan(checkpoint), plan(base)
    assert found.checkpoint.tensors.names() == usual.checkpoint.tensors.names()
    said = f"tensors are read without {' and '.join(map(repr, words))} in their names, which a wrapper put there"
    assert found.remarks == (said,)
    assert not found.is_as_shipped


def test_the_bundle_of_a_wrapped_model_is_that_of_the_model(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint(num_hidden_layers=1)
    for name, folder in (("plain", base), ("in", renamed(base, tmp_path / "in", WRAPPERS["both"][0]))):
        export(folder, tmp_path / f"of-{name}", precision="int4")
    weights = [(tmp_path / name / "weights.bin").read_bytes() for name in ("of-plain", "of-in")]
    assert weights[0] == weights[1]


def test_the_export_of_a_wrapped_model_can_be_checked(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = renamed(make_checkpoint(num_hidden_layers=1), tmp_path / "in", WRAPPERS["PEFT"][0])
    export(checkpoint, tmp_path / "out", precision="fp32", check=True)


def test_torch_files_are_unwrapped_too(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint(num_hidden_layers=1)
    tensors = load_file(base / "model.safetensors")
    folder = write_checkpoint(tmp_path / "in", base, {})
    (folder / "model.safetensors").unlink()
    torch.save({f"module.{n}": torch.from_numpy(a) for n, a in tensors.items()}, folder / "pytorch_model.bin")
    assert plan(folder).remarks[0].startswith("tensors are read without 'module.'")


def test_two_models_in_one_file_are_not_guessed_between(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint(num_hidden_layers=1)
    tensors = load_file(base / "model.safetensors")
    both = {f"{part}.{name}": array for part in ("student", "teacher") for name, array in tensors.items()}
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.embed_tokens\.weight"):
        plan(write_checkpoint(tmp_path / "in", base, both))


# The class without a head


BASES = {
    "llama": "model.",
    "qwen2": "model.",
    "gemma3_text": "model.",
    "olmo2": "model.",
    "gpt2": "transformer.",
    "falcon": "transformer.",
    "gpt_neox": "gpt_neox.",
}


@pytest.mark.parametrize("model_type", BASES)
def test_a_tied_model_that_was_saved_without_its_head_is_the_model(
    model_type: str,
    make_checkpoint: MakeCheckpoint,
    reference_logits: Callable[[Path, tuple[int, ...]], NDArray[np.float32]],
    tmp_path: Path,
) -> None:
    base = make_checkpoint(model_type, num_hidden_layers=2, hidden_size=64, tie_word_embeddings=True)
    checkpoint = renamed(base, tmp_path / "in", lambda name: name.removeprefix(BASES[model_type]))
    export(checkpoint, tmp_path / "out", precision="fp32")
    wanted = reference_logits(checkpoint, TOKEN_IDS)
    np.testing.assert_allclose(logits_of(tmp_path / "out"), wanted, rtol=0, atol=1e-4)
    assert plan(checkpoint).remarks == ()


def test_a_head_may_stand_beside_names_without_the_first_word(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint(num_hidden_layers=1)
    checkpoint = renamed(base, tmp_path / "in", lambda name: name.removeprefix("model."))
    assert plan(checkpoint).architecture.names["head"] == "lm_head.weight"


@pytest.mark.parametrize("front", ["", "module."])
def test_a_model_with_a_head_of_its_own_that_was_saved_without_it_is_refused_by_name(
    front: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    base = make_checkpoint(num_hidden_layers=1)
    rename: Rename = lambda name: front + name.removeprefix("model.")  # noqa: E731
    checkpoint = renamed(base, tmp_path / "in", rename, without="lm_head.weight")
    with pytest.raises(CheckpointError, match=r"holds no head: lm_head\.weight is missing.*AutoModelForCausalLM"):
        plan(checkpoint)
