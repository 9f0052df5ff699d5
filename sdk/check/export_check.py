"""What `export --check` does with a finished bundle: compare it with transformers, and refuse it where it differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skipstone.check.parity import Parity, compare, sample_tokens
from skipstone.check.reference import TransformersReference, require_reference
from skipstone.errors import CheckFailed
from skipstone.runtime.engine import Model

if TYPE_CHECKING:
    from skipstone.exporters import ExportPlan
    from skipstone.exporters.optimum import WrappedPlan

__all__ = ["ExportCheck"]

# Kernels for 8 bits round activations at every accuracy level, so a bundle of integers is judged by its distributions.
KEPT_KL_BOUND: Final = 0.02


class ExportCheck:
    """Compares the bundle of one plan, without its drafter; `verdict` says what was found, in one line.

    Raises: ConfigError at once when transformers is not installed, UnsupportedModel when it has no such model.
    """

    def __init__(self, plan: ExportPlan | WrappedPlan) -> None:
        require_reference(plan)
        self._plan = plan
        self.verdict = ""

    @property
    def kl_bound(self) -> float:
        """Nats per token that the bundle may differ; 0 asks for equal logits."""
        return max(self._plan.recipe.kl_bound, KEPT_KL_BOUND if self._plan.num_kept else 0.0)

    def __call__(self, folder: Path) -> Mapping[str, object]:
        """Return the figures for the manifest. Raises: CheckFailed when the bundle in `folder` is not right."""
        model = Model.open(folder, cache="fp32")
        reference = TransformersReference(self._plan)
        parity = compare(model, reference, sample_tokens(model))
        found = self._describe(parity)
        if not parity.holds(self.kl_bound):
            raise CheckFailed(
                f"the bundle of {self._plan.checkpoint.source} computes something else and was not written: {found}; "
                "try a higher --precision, or leave --check out to get it all the same"
            )
        self.verdict = f"check: {found}"
        return {"transformers": reference.version, "kl_bound": self.kl_bound, **parity.to_json()}

    def _describe(self, parity: Parity) -> str:
        tokens = f"{parity.num_tokens} tokens and {parity.num_greedy} greedy ones, fed in {len(parity.ways)} ways"
        logits = f"logits within {parity.max_logit_error:.1e} of transformers"
        if self.kl_bound == 0:
            return f"{tokens}: {logits} (bound {parity.tolerance:.0e})"
        same = f"{100 * parity.agreement:.1f} % of top choices kept"
        return f"{tokens}: KL {parity.kl:.4f} (bound {self.kl_bound:g}), {same}, {logits}"
