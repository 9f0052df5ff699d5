"""How many experts the FFNs of a model are carved into, and how wide they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.exporters.families import CarvedFfn

__all__ = ["ExpertCount"]

_AUTO_EXPERTS: Final = 16
_LEAST: Final = 4
_MOST: Final = 256
_SHARED: Final = 3 / 16  # more than that errs less, yet leaves a quarter of all no choice


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCount:
    """`total` experts of each FFN, of which `shared` are always active."""

    total: int
    shared: int

    @classmethod
    def parse(cls, text: str, plan: ExportPlan) -> Self:
        """Return what `auto` or a number means for a model.

        Experts are whole blocks wide, so that the operator reads the weights as they are rounded; `auto` is the number
        next to 16 that leaves least to the shared ones beside that.
        Raises: ConfigError for other words, and a number that does not fit.
        """
        widths = {block_units(plan, layer) for layer in carved_layers(plan)}
        if not widths:
            raise UnsupportedModel("the model has no FFN that could be carved; leave --experts out")
        most = min(units for _, units in widths)
        if text == "auto":
            if most < _LEAST:
                raise ConfigError(f"--experts: the narrowest FFN has {most} blocks, {_LEAST} are needed; leave it out")
            return cls.of(min(range(_LEAST, min(most, 2 * _AUTO_EXPERTS) + 1), key=lambda n: _distance(n, widths)))
        if not re.fullmatch(r"\d{1,4}", text):
            raise ConfigError(f"--experts takes auto or a number of experts, not '{text}'")
        total = int(text)
        if not _LEAST <= total <= min(most, _MOST):
            raise ConfigError(
                f"--experts {total}: {_LEAST} to {min(most, _MOST)} fit this model, whose experts are whole blocks of "
                "weights; a smaller --group-size allows more"
            )
        return cls.of(total)

    @classmethod
    def of(cls, total: int) -> Self:
        return cls(total=total, shared=max(1, int(total * _SHARED)))

    def ffn(self, width: int, block_size: int, router: str) -> CarvedFfn:
        """Return the experts of an FFN with so many neurons."""
        each = width // (self.total * block_size) * block_size
        return CarvedFfn(num_routed=self.total - self.shared, width=each, router=router)


def _distance(number: int, widths: set[tuple[int, int]]) -> float:
    """Return how far a number of experts is from the usual one, and what it leaves over."""
    left_over = max((units % number) / units for _, units in widths)
    return abs(number - _AUTO_EXPERTS) / _AUTO_EXPERTS + 4 * left_over


def carved_layers(plan: ExportPlan) -> list[int]:
    """Return the layers that have an FFN."""
    a = plan.architecture
    return [layer for layer in range(a.dimensions.num_layers) if a.has_ffn(layer)]


def block_size(plan: ExportPlan, layer: int) -> int:
    """Return of how many neurons an expert of a layer is a multiple."""
    rules = [plan.recipe.for_tensor(f"layers.{layer}.{kind}") for kind in ("gate_up", "down")]
    if any(rule.outliers for rule in rules):
        raise ConfigError("experts keep no outliers, which their operator cannot take; leave outliers or --experts out")
    return rules[1].block_size if rules[1].bits < 32 else 16


def block_units(plan: ExportPlan, layer: int) -> tuple[int, int]:
    """Return the width of the FFN of a layer, and how many whole blocks that is."""
    width = plan.architecture.ffn_widths[layer]
    return width, width // block_size(plan, layer)
