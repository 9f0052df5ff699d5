"""Cross entropy of a tied head, made in slices so that the logits of a step never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS_AT_ONCE = 1024  # rows x 4096 logits x 2 bytes: stays in the cache


class HeadLoss(torch.autograd.Function):
    """Mean cross entropy of `hidden @ weight.T` against `targets`, softened by a teacher where there is one.

    The gradient is known as soon as the logits are (softmax minus target), so the forward pass makes it and the
    backward pass only scales it.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, teacher_probs: Tensor | None, mix: float
    ) -> Tensor:
        """hidden [N, E], weight [V, E], targets [N]; `teacher_probs` [N, V] counts `mix`, the targets the rest."""
        head = weight.to(hidden.dtype)
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            log_probs = torch.log_softmax(hidden[rows] @ head.T, dim=-1, dtype=torch.float32)
            grad = log_probs.exp()
            own = targets[rows, None]
            total -= (1 - mix) * log_probs.gather(1, own).sum()
            grad.scatter_add_(1, own, torch.full_like(own, mix - 1, dtype=grad.dtype))
            if teacher_probs is not None:
                soft = teacher_probs[rows].float()
                total -= mix * (soft * log_probs).sum()
                grad -= mix * soft
            grad = grad.to(hidden.dtype)
            grad_hidden[rows] = grad @ head
            grad_weight += (grad.T @ hidden[rows]).to(weight.dtype)
        ctx.save_for_backward(grad_hidden / len(hidden), grad_weight / len(hidden))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * scale.to(grad_hidden.dtype), grad_weight * scale, None, None, None


def head_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, teacher_probs: Tensor | None = None, mix: float = 0.0
) -> Tensor:
    """Return the mean loss in nats per token; see `HeadLoss`."""
    loss: Tensor = HeadLoss.apply(hidden, weight, targets, teacher_probs, mix)
    return loss
