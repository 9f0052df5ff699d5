"""The original of a bundle, computed by transformers in float32: what `export --check` compares with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError, UnsupportedModel

if TYPE_CHECKING:
    from skipstone.exporters import ExportPlan
    from skipstone.exporters.optimum import WrappedPlan

__all__ = ["TransformersReference", "require_reference", "require_transformers"]

NEEDED = ("torch", "transformers")


def require_transformers() -> None:
    """Raise ConfigError unless torch and transformers are installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--check compares with transformers, and {' and '.join(missing)} is not installed: "
            "pip install torch transformers, or leave --check out"
        )


def require_reference(plan: ExportPlan | WrappedPlan) -> None:
    """Raise UnsupportedModel for a plan whose model transformers does not have, ConfigError without transformers."""
    require_transformers()
    _ = plan.settings


class TransformersReference:
    """Token ids to logits, by the checkpoint of a plan. Costs the memory of all its weights in float32.

    A folder of Hugging Face is read by transformers itself. Where weights were changed on the way, by a transform or
    unpacked, transformers gets them as the export reads them.
    Raises: ConfigError without torch and transformers; UnsupportedModel where transformers cannot load the model.
    """

    def __init__(self, plan: ExportPlan | WrappedPlan) -> None:
        require_transformers()
        torch, transformers = (import_module(name) for name in NEEDED)
        self._torch: Any = torch
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.version: str = transformers.__version__
        try:
            self.model = _load(plan, torch, transformers).eval()
        except Exception as error:  # whatever transformers has against a checkpoint
            first_line = str(error).partition("\n")[0]
            raise UnsupportedModel(
                f"transformers cannot load {plan.checkpoint.source}: {first_line}; leave --check out"
            ) from error

    def __call__(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits [T, V] after each token."""
        with self._torch.no_grad():
            logits = self.model(self._torch.tensor([[*token_ids]])).logits[0]
        return np.asarray(logits.numpy(), np.float32)


def _load(plan: ExportPlan | WrappedPlan, torch: Any, transformers: Any) -> Any:
    if plan.is_as_shipped:
        return transformers.AutoModelForCausalLM.from_pretrained(
            plan.checkpoint.path, dtype=torch.float32, trust_remote_code=False
        )
    return _from_tensors(plan, torch, transformers)


def _from_tensors(plan: ExportPlan, torch: Any, transformers: Any) -> Any:
    settings = transformers.AutoConfig.for_model(**plan.settings)
    weights = {
        name: torch.from_numpy(np.ascontiguousarray(plan.checkpoint.tensors.read(name, shape)))
        for name, shape in plan.architecture.tensor_shapes().items()
    }
    kind = type(transformers.AutoModelForCausalLM.from_config(settings))
    return kind.from_pretrained(None, config=settings, state_dict=weights, dtype=torch.float32)
