"""What routes the experts of one FFN and stands in for those that are left out, while it learns.

Shapes: B batch, T tokens, E hidden size, I inner width, R routed experts of M neurons each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from skipstone.distill.carved_layers import CarvedLayer
from skipstone.train import require_torch

__all__ = ["LearningRouter"]

Multiply: TypeAlias = Callable[[Any], Any]
# Of how much the scores of a token differ: slopes reach experts that nearly run, or nearly do not.
_SOFTNESS: Final = 0.2


class LearningRouter:
    """The router of a carved FFN. An expert counts fully or not at all; slopes flow as if it counted by its score.

    Parameters are changes, in units of what is there, so that one learning rate serves every model. They are named as
    tensors are: `expert_boost` [R, 1] makes an expert louder by the share of those that are left out, and `expert_rest`
    [R, E] stands in where it is left out itself. So with all experts the FFN is the dense one.
    """

    def __init__(self, layer: CarvedLayer, hidden_size: int, tokens: tuple[Any, Any, Multiply]) -> None:
        """`tokens` are what the dense FFN reads [T, E], what its neurons give [T, I], and the product with `down`."""
        self._torch, self.layer = require_torch(), layer
        start = {name: self._torch.from_numpy(tensor) for name, tensor in layer.tensors.items()}
        start.setdefault("expert_rest", self._torch.zeros(layer.num_routed, hidden_size))
        start.setdefault("expert_boost", self._torch.zeros(layer.num_routed, 1))
        self._start, self._units = start, dict[str, Any].fromkeys(start, 1.0)
        self.parameters = {name: self._torch.zeros_like(tensor, requires_grad=True) for name, tensor in start.items()}
        with self._torch.no_grad():
            self._measure(*tokens)

    def _measure(self, x: Any, inner: Any, multiply: Multiply) -> None:
        """Take the units from a text: how much scores differ, and how much an expert gives in each channel."""
        self._spread = float(self._scores(x, inner).std(dim=-1).mean()) + 1e-12
        shared = inner.clone()
        shared[..., : self.layer.num_neurons] = 0
        given = (multiply(inner) - multiply(shared)).reshape(-1, self._start["expert_rest"].shape[1])
        self._units["expert_rest"] = given.square().mean(dim=0).sqrt() / self.layer.num_routed**0.5
        if "expert_gain" in self._start:
            self._units["expert_gain"] = float(self._start["expert_gain"].abs().mean())
        else:
            self._units["expert_router"] = float(self._start["expert_router"].std())
            self._units["expert_offset"] = self._spread

    def tensor(self, name: str) -> Any:
        """Return a tensor as far as it is learned."""
        return self._start[name] + self._units[name] * self.parameters[name]

    def __call__(self, x: Any, inner: Any, multiply: Multiply, num_active: int) -> Any:
        """[..., E] and [..., I] to what the FFN gives with so many routed experts [..., E]."""
        count = self.layer.num_routed
        if num_active >= count:
            return multiply(inner)
        active = self._active(self._scores(x, inner), num_active)
        left_out = (count - num_active) / count
        weights = (active * (1 + left_out * self.tensor("expert_boost").squeeze(-1))).repeat_interleave(
            self.layer.width, dim=-1
        )
        always = weights.new_ones(*weights.shape[:-1], inner.shape[-1] - self.layer.num_neurons)
        mixed = multiply(inner * self._torch.cat([weights, always], dim=-1))
        return mixed + (1 - active) @ self.tensor("expert_rest")

    def _scores(self, x: Any, inner: Any) -> Any:
        if "expert_gain" in self._start:
            first = self.layer.num_neurons
            return inner[..., first : first + self.layer.num_routed].abs() * self.tensor("expert_gain")
        return x @ self.tensor("expert_router") + self.tensor("expert_offset")

    def _active(self, scores: Any, num_active: int) -> Any:
        """Return 1 for the experts with the highest scores and 0 for others, with the slopes of a soft choice."""
        top = scores.topk(num_active + 1, dim=-1)
        active = self._torch.zeros_like(scores).scatter(-1, top.indices[..., :num_active], 1.0)
        if not self._torch.is_grad_enabled():
            return active
        border = top.values[..., num_active - 1 :].mean(dim=-1, keepdim=True).detach()
        soft = self._torch.sigmoid((scores - border) / (_SOFTNESS * self._spread))
        return active + soft - soft.detach()
