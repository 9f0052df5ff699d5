"""Print the held-out bits per byte of a checkpoint after each quarter of its layers.

    python evaluate.py OUT [--bytes 300000]

Windows of 1024 tokens that do not overlap, each after an end-of-text token; every token of every held-out module
counts.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from corpus import held_out_texts
from model import Pebble, load_checkpoint
from tokenizers import Tokenizer

WINDOW = 1024


def windows(token_ids: list[int]) -> list[torch.Tensor]:
    """Return [T] token ids of each window, the end-of-text token (id 0) first."""
    step = WINDOW - 1
    return [torch.tensor([0, *token_ids[begin : begin + step]]) for begin in range(0, len(token_ids), step)]


@torch.no_grad()
def nats_at_exits(model: Pebble, exits: tuple[int, ...], window: torch.Tensor) -> torch.Tensor:
    """Return the summed loss in nats after each number of layers in `exits`."""
    keep = torch.ones(model.shape.num_hidden_layers, 1, 1, 1)
    outputs = model(window[None, :-1], exits, keep)
    head = model.embed_tokens.weight.T
    losses = [torch.nn.functional.cross_entropy(rows[0] @ head, window[1:], reduction="sum") for rows in outputs]
    return torch.stack(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--bytes", type=int, help="stop after so many bytes of text; default: all")
    args = parser.parse_args()
    model = load_checkpoint(args.checkpoint).eval()
    tokenizer = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json"))
    num_layers = model.shape.num_hidden_layers
    exits = tuple(sorted({max(1, num_layers * quarter // 4) for quarter in (1, 2, 3, 4)}))
    nats, num_bytes = torch.zeros(len(exits)), 0
    for text in held_out_texts():
        for window in windows(tokenizer.encode(text).ids):
            nats += nats_at_exits(model, exits, window)
        num_bytes += len(text.encode())
        if args.bytes and num_bytes >= args.bytes:
            break
    print(f"{num_bytes:,} held-out bytes")
    for layers, loss in zip(exits, nats.tolist(), strict=True):
        print(f"after {layers} of {num_layers} layers: {loss / math.log(2) / num_bytes:.3f} bits per byte")


if __name__ == "__main__":
    main()
