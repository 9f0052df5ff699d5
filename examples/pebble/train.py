"""Train pebble, or distil pebble-mini from it, on the standard library of the running CPython.

    python train.py OUT --tokens 25e6                                   # pebble
    python train.py OUT --shape pebble-mini --teacher PEBBLE --tokens 10e6

Interrupt it at any time: the same command goes on from OUT/training.pt. The folder OUT ends as a Hugging Face
checkpoint. Early exits are trained as LayerSkip does it (Elhoushi et al., 2024): layers are dropped more often the
deeper they lie, and the shared head is also asked after a quarter, half and three quarters of the layers in turn.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from corpus import token_stream, train_tokenizer
from loss import head_loss
from model import SHAPES, Pebble, load_checkpoint, save_checkpoint
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is learned in which order. A step sees `step_tokens` tokens in windows of `window` tokens.

    Two phases: windows of `window` tokens until `long_from` of the steps, then of `long_window`, so that all positions
    are seen. In the first the learning rate stays at its peak until `decay_from` of the steps; each phase ends at zero.
    """

    tokens: int
    step_tokens: int = 16384
    window: int = 256
    long_window: int = 1024
    long_from: float = 0.93
    decay_from: float = 0.62
    warmup_steps: int = 50
    learning_rate: float = 3e-3
    long_learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    seed: int = 1
    max_layer_dropout: float = 0.1  # p_max of the paper
    exit_scale: float = 0.5  # e_scale of the paper
    distil_mix: float = 0.8

    @property
    def steps(self) -> int:
        return math.ceil(self.tokens / self.step_tokens)

    def window_at(self, step: int) -> int:
        return self.window if step < self.long_from * self.steps else self.long_window

    def learning_rate_at(self, step: int) -> float:
        border, decay_start = self.long_from * self.steps, self.decay_from * self.steps
        if step >= border:
            return self.long_learning_rate * (self.steps - step) / (self.steps - border)
        warm = (step + 1) / self.warmup_steps
        return self.learning_rate * min(1.0, warm, (border - step) / (border - decay_start))

    def layer_dropout_at(self, step: int, num_layers: int) -> Tensor:
        """Return the chance [L] that a sample skips each layer: more with depth and with time."""
        depth = torch.exp(torch.arange(num_layers) * math.log(2) / max(num_layers - 1, 1)) - 1
        over_time = math.exp(step * math.log(2) / max(self.steps - 1, 1)) - 1
        return self.max_layer_dropout * over_time * depth


def exit_weights(exit_layer: int, num_layers: int, scale: float) -> tuple[float, float]:
    """Return the shares of the loss that an early exit and the last layer get; a deeper exit counts more."""
    index, last = exit_layer - 1, num_layers - 1
    early = scale * index * (index + 1) / 2
    full = last + scale * (last - 1) * last / 2
    return early / (early + full), full / (early + full)


def draw_windows(stream: np.ndarray, recipe: Recipe, step: int) -> Tensor:
    """Return the token ids [B, T + 1] of one step; the same step draws the same windows for ever."""
    window = recipe.window_at(step)
    rng = np.random.default_rng((recipe.seed, step))
    starts = rng.integers(0, len(stream) - window - 1, recipe.step_tokens // window)
    return torch.from_numpy(np.stack([stream[start : start + window + 1] for start in starts]).astype(np.int64))


class Trainer:
    """A model, its optimizers and the number of finished steps; `step` is deterministic in that number."""

    def __init__(
        self, model: Pebble, recipe: Recipe, stream: np.ndarray, teacher: Pebble | None, *, compiled: bool
    ) -> None:
        self.model, self.recipe, self.stream, self.teacher = model, recipe, stream, teacher
        self.device = next(model.parameters()).device
        self.forward = torch.compile(model) if compiled else model
        matrices = [value for name, value in model.layers.named_parameters() if value.dim() == 2]
        others = [value for value in model.parameters() if not any(value is matrix for matrix in matrices)]
        self.optimizers = (
            torch.optim.Muon(matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self.steps_done = 0

    def state(self) -> dict[str, object]:
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"model": self.model.state_dict(), "optimizers": optimizers, "steps_done": self.steps_done}

    def restore(self, state: dict[str, object]) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.steps_done = state["steps_done"]

    def step(self) -> float:
        """Train on one batch; return the last layer's loss in nats per token."""
        step, recipe = self.steps_done, self.recipe
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(step)
        windows = draw_windows(self.stream, recipe, step).to(self.device)
        # One context a step: it keeps the cast weights, which the optimizers then change.
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss, last = self.losses(windows[:, :-1], windows[:, 1:].flatten(), step)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.steps_done += 1
        return last.item()

    def losses(self, token_ids: Tensor, targets: Tensor, step: int) -> tuple[Tensor, Tensor]:
        num_layers = self.model.shape.num_hidden_layers
        exits = tuple(num_layers * quarter // 4 for quarter in (1, 2, 3)) if self.teacher is None else ()
        hidden = self.forward(token_ids, (*exits, num_layers), self.keep(len(token_ids), step))
        head = self.model.embed_tokens.weight
        if self.teacher is not None:
            last = head_loss(
                hidden[-1].flatten(0, 1), head, targets, self.teacher_probs(token_ids), self.recipe.distil_mix
            )
            return last, last.detach()
        last = head_loss(hidden[-1].flatten(0, 1), head, targets)
        turn = step % len(exits)
        early_share, full_share = exit_weights(exits[turn], num_layers, self.recipe.exit_scale)
        # Every other row is enough for an exit, and the head is a third of the work.
        early = head_loss(hidden[turn][:, ::2].flatten(0, 1), head, targets.view_as(token_ids)[:, ::2].flatten())
        return full_share * last + early_share * early, last.detach()

    def keep(self, batch: int, step: int) -> Tensor:
        """Return 1 where a sample runs a layer and 0 where it skips it, [L, B, 1, 1]."""
        num_layers = self.model.shape.num_hidden_layers
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        drawn = torch.rand(num_layers, batch, generator=generator)
        keep = drawn >= self.recipe.layer_dropout_at(step, num_layers)[:, None]
        return keep.to(self.device, torch.bfloat16)[..., None, None]

    @torch.no_grad()
    def teacher_probs(self, token_ids: Tensor) -> Tensor:
        num_layers = self.teacher.shape.num_hidden_layers
        keep = torch.ones(num_layers, len(token_ids), 1, 1, dtype=torch.bfloat16, device=self.device)
        (hidden,) = self.teacher(token_ids, (num_layers,), keep)
        return torch.softmax(hidden.flatten(0, 1) @ self.teacher.embed_tokens.weight.T.to(hidden.dtype), dim=-1)


def save_state(state: dict[str, object], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def run(trainer: Trainer, path: Path, *, save_every: int) -> None:
    """Train to the end of the recipe, saving to `path` now and then and when interrupted."""
    columns = (TextColumn("loss {task.fields[loss]:.3f}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    smooth: float | None = None
    with Progress(*columns, speed_estimate_period=600) as progress:
        task = progress.add_task("train", total=trainer.recipe.steps, completed=trainer.steps_done, loss=math.nan)
        try:
            while trainer.steps_done < trainer.recipe.steps:
                loss = trainer.step()
                smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
                progress.update(task, completed=trainer.steps_done, loss=smooth)
                if trainer.steps_done % save_every == 0:
                    save_state(trainer.state(), path)
                    progress.console.print(f"step {trainer.steps_done}  loss {smooth:.3f}", highlight=False)
        finally:
            save_state(trainer.state(), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="pebble")
    parser.add_argument("--teacher", type=Path, help="checkpoint to distil from; its tokenizer is taken over")
    parser.add_argument("--tokens", type=float, default=25e6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--compile", action="store_true", help="compile the network first: 10 %% faster on a CPU")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(tokens=int(args.tokens), seed=args.seed)
    if args.teacher:
        recipe = replace(recipe, learning_rate=2e-3, long_learning_rate=1e-3, max_layer_dropout=0.0)
    tokenizer_path = args.out / "tokenizer.json"
    if not tokenizer_path.exists():
        source = args.teacher / "tokenizer.json" if args.teacher else None
        tokenizer = Tokenizer.from_file(str(source)) if source else train_tokenizer(SHAPES[args.shape].vocab_size)
        tokenizer.save(str(tokenizer_path))
    stream = token_stream(Tokenizer.from_file(str(tokenizer_path)), seed=args.seed)
    print(f"{len(stream):,} different tokens, {recipe.steps} steps of {recipe.step_tokens} tokens, on {device.type}")
    torch.manual_seed(args.seed)
    model = Pebble(SHAPES[args.shape]).to(device)
    teacher = load_checkpoint(args.teacher).to(device).eval() if args.teacher else None
    if teacher:
        model.start_from(teacher)
    trainer = Trainer(model, recipe, stream, teacher, compiled=args.compile)
    state_path = args.out / "training.pt"
    if state_path.exists():
        trainer.restore(torch.load(state_path, weights_only=True))
    run(trainer, state_path, save_every=args.save_every)
    save_checkpoint(model, args.out)


if __name__ == "__main__":
    main()
