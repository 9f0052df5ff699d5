"""Experts of a bundle trained to say together, while only some run, what all of them say.

The dense weights stay as they are; routers, stand-ins and boosts learn. The loss is KL(p_dense || p_sparse) of the
whole model along texts, at each level of active experts in turn. An expert runs or does not, and slopes
flow as if it ran by its score (straight through).
Source: knowledge distillation (Hinton et al., 2015); straight-through slopes (Bengio et al., 2013); CMoE (Pei et al.,
2025) for the experts.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from skipstone.distill.examples import Windows, held_out, order_of, windows_for
from skipstone.distill.laws import DenseLaw, dense_law, runtime_logits
from skipstone.distill.plan import ExpertTrainingPlan
from skipstone.distill.torch_model import TorchModel
from skipstone.distill.trained_bundle import LevelReport, write_bundle
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.runtime.bundle import SPARSE
from skipstone.runtime.engine import Model, Part
from skipstone.runtime.methods.experts import ActiveLevel, level_for, levels_of
from skipstone.train import require_torch, schedule, threads_for

__all__ = ["OnProgress", "train_experts"]

OnProgress: TypeAlias = Callable[[int, float], None]
SAVE_EVERY_S: Final = 30.0
# So often is the text judged that is held out.
_JUDGEMENTS: Final = 4
# Of the learning rate, in units of what is there: routers decide what runs, and bear less.
_RATES: Final[Mapping[str, float]] = {
    "expert_rest": 1.0,
    "expert_boost": 0.3,
    "expert_offset": 0.3,
    "expert_router": 0.15,
    "expert_gain": 0.3,
}
# How far logits may be apart, of how much they differ: rounding in 4 bits moves them by a twentieth.
_MOST_APART: Final = 0.15
_LITTLE_KL: Final = 0.01
_TINY_KL: Final = 1e-9


def train_experts(
    plan: ExpertTrainingPlan,
    *,
    on_text: Callable[[int], None] = lambda num_tokens: None,
    on_progress: OnProgress = lambda step, loss: None,
    save_every_s: float = SAVE_EVERY_S,
) -> list[LevelReport]:
    """Train the experts, write the bundle, and return the KL of its levels on held-out text, before and after.

    `on_text` gets how many tokens the model has written; `on_progress` the steps done and the KL of the last one. The
    state is kept every `save_every_s` and at Ctrl-C; the same plan goes on from there and gives the same bundle. Where
    the KL did not fall, the bundle has the experts that it had. Cost: see `memory_bytes`; each step runs the model
    forth and back along a window.
    Raises: ConfigError for too short a text, UnsupportedModel for graphs that torch computes otherwise.
    """
    with threads_for(plan.bundle.manifest.dimensions, plan.training.threads):
        model = Model.open(plan.bundle.path, threads=plan.training.threads)
        windows = windows_for(plan, model, on_text)
        if plan.state is None:
            plan.run.save({"step": 0, "windows": windows})  # writing them took a while
        trainer = _Trainer(plan, model, windows)
        try:
            trainer.run(on_progress, save_every_s)
        except KeyboardInterrupt:
            trainer.save()
            raise
        _, judged = held_out(windows)
        reports = write_bundle(plan, model, trainer.learned(), judged, trainer.judged_laws)
    plan.run.path.unlink(missing_ok=True)
    return reports


def levels_to_train(model: Model, active: float | None) -> list[ActiveLevel]:
    """Return the levels that are trained for, ascending."""
    levels = [level_for(model, active)] if active is not None else [*levels_of(model)]
    return [level for level in levels if level.share < 1]


@dataclass(slots=True, eq=False)
class _Best:
    """What was best on held-out text so far, and its KL as a share of that at the start, over all levels."""

    share: float
    parameters: list[Any]


class _Trainer:
    """The routers of one run, their optimizer, and the state of both after the last whole step."""

    def __init__(self, plan: ExpertTrainingPlan, model: Model, windows: Windows) -> None:
        self._torch, self._plan, self._windows = require_torch(), plan, windows
        self._dense = model
        self._levels = levels_to_train(model, plan.training.active)
        self._learned_from, self._judged = held_out(windows)
        self._laws: dict[int, DenseLaw] = {}
        self.judged_laws = [dense_law(model, window) for window in self._judged]
        self._model = TorchModel(plan.bundle)
        self._model.prepare(windows[0])
        if not self._levels:
            raise ConfigError("the bundle has no level below all experts; give one with --active, such as 0.75")
        self._require_like(model)
        parameters = [(name, one) for router in self._routers for name, one in router.parameters.items()]
        self._parameters = [one for _, one in parameters]
        self._rates = [_RATES[name] * plan.training.learning_rate for name, _ in parameters]
        groups = [{"params": [one], "lr": rate} for one, rate in zip(self._parameters, self._rates, strict=True)]
        self._optimizer = self._torch.optim.Adam(groups)
        if plan.state is not None and "best" in plan.state:
            self._restore(plan.state)
        else:
            self._start = [max(loss, _TINY_KL) for loss in self._losses()]
            self._best = _Best(1.0, self._copies())
        self._state = self._snapshot(plan.first_step)
        self.save()

    @property
    def _routers(self) -> list[Any]:
        return [router for _, router in sorted(self._model.routers.items())]

    def _require_like(self, model: Model) -> None:
        """Raise UnsupportedModel unless torch computes what the graphs do, dense and with few experts."""
        window, law = self._judged[0], self.judged_laws[0]
        least = self._levels[0]
        sparse = DenseLaw.of(runtime_logits(model, window, Part(variant=SPARSE, active=least.counts)))
        whole = runtime_logits(model, window, Part())
        with self._torch.no_grad():
            apart = _apart(self._model.logits(window), self._torch.from_numpy(whole))
            found = self._model.logits(window, least.counts)
            # Rounding moves the choice of experts, so the law of few is farther from its own than that of all.
            few, missing = float(sparse.divergence(found)), float(law.divergence(found))
        if apart > _MOST_APART or few > missing + _LITTLE_KL:
            raise UnsupportedModel(
                f"torch computes this {model.manifest.family} otherwise than its graphs do ({apart:.0%} apart with all "
                f"experts, KL {few:.3f} with some), so its experts are not trained; please report the family"
            )

    def run(self, on_progress: OnProgress, save_every_s: float) -> None:
        """Take the steps that are left."""
        steps, saved = self._plan.training.steps, time.monotonic()
        every = max(1, steps // _JUDGEMENTS)
        for step in range(self._plan.first_step, steps):
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * schedule(step, steps)
            loss = self._step(step)
            if (step + 1) % every == 0 or step + 1 == steps:
                self._judge()
            self._state = self._snapshot(step + 1)
            on_progress(step + 1, loss)
            if time.monotonic() - saved > save_every_s:
                self.save()
                saved = time.monotonic()

    def save(self) -> None:
        """Keep the state after the last whole step; one that was interrupted may be half done."""
        self._plan.run.save(self._state)

    def _step(self, step: int) -> float:
        number = order_of(step, len(self._learned_from), self._plan.training.seed)
        window, level = self._learned_from[number], self._levels[step % len(self._levels)]
        if number not in self._laws:
            self._laws[number] = dense_law(self._dense, window)
        loss = self._laws[number].divergence(self._model.logits(window, level.counts))
        self._optimizer.zero_grad()
        # Few experts are far from all: so that they do not outweigh the others, each level counts by its own start.
        (loss / self._start[step % len(self._levels)]).backward()
        self._optimizer.step()
        return float(loss.detach())

    def _judge(self) -> None:
        """Keep what is there if it is the best on held-out text so far."""
        shares = [loss / start for loss, start in zip(self._losses(), self._start, strict=True)]
        if (mean := sum(shares) / len(shares)) < self._best.share:
            self._best = _Best(mean, self._copies())

    def _losses(self) -> list[float]:
        """Return the KL of each level on held-out text."""
        pairs = [*zip(self._judged, self.judged_laws, strict=True)]
        with self._torch.no_grad():
            return [
                sum(float(law.divergence(self._model.logits(window, level.counts))) for window, law in pairs)
                for level in self._levels
            ]

    def learned(self) -> dict[int, dict[str, Any]]:
        """Return the best tensors, by layer and name."""
        with self._torch.no_grad():
            for parameter, best in zip(self._parameters, self._best.parameters, strict=True):
                parameter.copy_(best)
            return {
                layer: {name: router.tensor(name).numpy().copy() for name in router.parameters}
                for layer, router in self._model.routers.items()
            }

    def _copies(self) -> list[Any]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def _snapshot(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "windows": self._windows,
            "parameters": self._copies(),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "start": self._start,
            "share": self._best.share,
            "best": self._best.parameters,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        with self._torch.no_grad():
            for parameter, kept in zip(self._parameters, state["parameters"], strict=True):
                parameter.copy_(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        self._start = list(state["start"])
        self._best = _Best(float(state["share"]), list(state["best"]))


def _apart(found: Any, wanted: Any) -> float:
    """Return how far logits [T, V] are apart, as a share of how much those of a token differ."""
    middle = wanted - wanted.mean(dim=-1, keepdim=True)
    return float((found - wanted).square().mean().sqrt() / middle.square().mean().sqrt())
