"""What is read: a checkpoint's folder or file, its tensors, its tokenizer, its trained exits."""

from __future__ import annotations

from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.exporters.checkpoints.exit_adapters import (
    ADAPTERS_FILE,
    EPSILON,
    ExitAdapter,
    ExitAdapters,
    adapters_bytes,
    adapters_for,
    weights_identity,
)
from skipstone.exporters.checkpoints.files import optional_json
from skipstone.exporters.checkpoints.hub import fetch, is_hub_id
from skipstone.exporters.checkpoints.inventory import left_out, require_tensors, with_stored_biases
from skipstone.exporters.checkpoints.opening import open_checkpoint
from skipstone.exporters.checkpoints.plausible import require_plausible
from skipstone.exporters.checkpoints.safetensors_file import safetensors_in
from skipstone.exporters.checkpoints.sampling import read_sampling, sampling_remarks
from skipstone.exporters.checkpoints.stored_head import with_stored_head
from skipstone.exporters.checkpoints.tensors import Coding, StoredTensor, StoredTensors, TensorSource, check_shape
from skipstone.exporters.checkpoints.token_roles import TokenRoles, with_rows
from skipstone.exporters.checkpoints.weight_files import open_weights

__all__ = [
    "ADAPTERS_FILE",
    "EPSILON",
    "Checkpoint",
    "Coding",
    "ExitAdapter",
    "ExitAdapters",
    "StoredTensor",
    "StoredTensors",
    "TensorSource",
    "TokenRoles",
    "adapters_bytes",
    "adapters_for",
    "check_shape",
    "fetch",
    "is_hub_id",
    "left_out",
    "open_checkpoint",
    "open_weights",
    "optional_json",
    "read_sampling",
    "require_plausible",
    "require_tensors",
    "safetensors_in",
    "sampling_remarks",
    "weights_identity",
    "with_rows",
    "with_stored_biases",
    "with_stored_head",
]
