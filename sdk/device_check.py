"""A device checked by the decoding contract, on tiny models of random weights that are made on the fly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from skipstone.api import export
from skipstone.bundled import BUNDLED
from skipstone.check import PROCESSOR_TARGET, Clause, ContractBundles, check_clauses
from skipstone.devices import Device, TargetedDevice
from skipstone.errors import ConfigError

__all__ = ["check_contract", "contract_bundles"]

CHECKPOINT: Final = "checkpoint"
TOKENIZER: Final = BUNDLED["pebble-mini"]
SIZES: Final = {
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
# Large weights, so that a mistake shows in the logits.
SPREAD: Final = 0.15


def check_contract(device: Device) -> Iterator[Clause]:
    """Yield what becomes of each clause of the decoding contract on a device; see `check_clauses`.

    The models are exported for the best target of the device, and for the processor beside it. Cost: some seconds on
    the processor. Raises: DeviceError where the device opens no bundle at all.
    """
    target = device.targets[0] if isinstance(device, TargetedDevice) else PROCESSOR_TARGET
    with TemporaryDirectory(prefix="skipstone-contract-") as folder:
        contract_bundles(Path(folder), target=target)
        yield from check_clauses(device, ContractBundles.in_folder(Path(folder), target=target))


def contract_bundles(folder: Path, *, target: str = "ort") -> None:
    """Write the bundles that a device is checked with below `folder`. Cost: some seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_checkpoint(folder / CHECKPOINT)
    for name in {PROCESSOR_TARGET, target}:
        bundles = ContractBundles.in_folder(folder, target=name)
        export(folder / CHECKPOINT, bundles.int4, precision="int4", target=name)
        try:
            export(folder / CHECKPOINT, bundles.numbers, precision="fp32", exits="1,2", cache="int8", target=name)
        except ConfigError:  # of a target that has no int8 cache
            export(folder / CHECKPOINT, bundles.numbers, precision="fp32", exits="1,2", target=name)


def _write_checkpoint(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    config = json.loads((TOKENIZER / "config.json").read_text(encoding="utf-8")) | SIZES
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(TOKENIZER / "tokenizer.json", folder)
    save_file(_tensors(config["vocab_size"]), folder / "model.safetensors")


def _tensors(vocab_size: int) -> dict[str, NDArray[np.float32]]:
    hidden, ffn = SIZES["hidden_size"], SIZES["intermediate_size"]
    rows, key_rows = (SIZES[heads] * SIZES["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    shapes = {
        "self_attn.q_proj": (rows, hidden),
        "self_attn.k_proj": (key_rows, hidden),
        "self_attn.v_proj": (key_rows, hidden),
        "self_attn.o_proj": (hidden, rows),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    layers = [f"model.layers.{number}." for number in range(SIZES["num_hidden_layers"])]
    matrices = {"model.embed_tokens": (vocab_size, hidden)}
    matrices |= {layer + name: shape for layer in layers for name, shape in shapes.items()}
    norms = [
        "model.norm",
        *(layer + name for layer in layers for name in ("input_layernorm", "post_attention_layernorm")),
    ]
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape, np.float32) * np.float32(SPREAD) for name, shape in matrices.items()}
    tensors |= {name: np.ones(hidden, np.float32) for name in norms}
    return {f"{name}.weight": values for name, values in tensors.items()}
