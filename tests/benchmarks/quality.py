"""Print quality and speed of the quantization recipes side by side, as a Markdown table.

    python tests/benchmarks/quality.py CHECKPOINT TEXT [--max-tokens 30000] [--runs 5] [--only "int8: block 32" ...]

CHECKPOINT is a folder or the word pebble; TEXT a file that the model was not trained on, for pebble the one that
examples/pebble/heldout.py writes. KL and agreement are against the same checkpoint in fp32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from skipstone.bench import benchmark
from skipstone.bundled import BUNDLED
from skipstone.evaluate import evaluate
from skipstone.exporters import ExportOptions, plan_export
from skipstone.exporters.families import Architecture
from skipstone.quant import Recipe, TensorRecipe
from skipstone.runtime.engine import Model


def uniform(bits: int, block_size: int, *, symmetric: bool, wide: tuple[str, ...], method: str = "search") -> Recipe:
    """Return `bits` everywhere, but 8 for the patterns in `wide`."""
    rule = TensorRecipe(bits=bits, block_size=block_size, symmetric=symmetric, method=method)
    eight = TensorRecipe(bits=8, block_size=block_size, method=method)
    return Recipe(name="trial", rules=(("*", rule), *((pattern, eight) for pattern in wide)))


HEAD = ("head", "embedding")
QKV, OUTPUT, DOWN = "layers.*.qkv", "layers.*.o", "layers.*.down"
RECIPES = {
    "int8: block 32": Recipe.named("int8"),
    "int8, block 128": Recipe.named("int8", group_size=128),
    "int4: block 32, zero points; qkv, o and head int8, block 64": Recipe.named("int4"),
    "int4, block 64": Recipe.named("int4", group_size=64),
    "int4, block 128": Recipe.named("int4", group_size=128),
    "int4-fast: block 128, zero points, all int4": Recipe.named("int4-fast"),
    "int4-fast, no zero points": Recipe.named("int4-fast", symmetric=True),
    "block 32, largest value, head int8": uniform(4, 32, symmetric=True, wide=HEAD, method="absmax"),
    "block 32, head int8": uniform(4, 32, symmetric=True, wide=HEAD),
    "block 32, zero points, head int8": uniform(4, 32, symmetric=False, wide=HEAD),
    "block 64, zero points, head int8": uniform(4, 64, symmetric=False, wide=HEAD),
    "block 128, zero points, head int8": uniform(4, 128, symmetric=False, wide=HEAD),
    "block 128, head int8": uniform(4, 128, symmetric=True, wide=HEAD),
    "block 128, qkv and head int8": uniform(4, 128, symmetric=True, wide=(*HEAD, QKV)),
    "block 128, zero points, o and head int8": uniform(4, 128, symmetric=False, wide=(*HEAD, OUTPUT)),
    "block 128, zero points, down and head int8": uniform(4, 128, symmetric=False, wide=(*HEAD, DOWN)),
    "block 128, zero points, qkv, o and head int8": uniform(4, 128, symmetric=False, wide=(*HEAD, QKV, OUTPUT)),
}


def matrices(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """Return the quantized matrices' names and shapes (N, K), as recipes see them."""
    d = architecture.dimensions
    query, key_value = d.num_heads * d.head_size, d.num_kv_heads * d.head_size
    sizes = {"head": (d.vocab_size, d.hidden_size)}
    if not architecture.tied_embedding:
        sizes["embedding"] = sizes["head"]
    for layer in range(d.num_layers):
        sizes[f"layers.{layer}.qkv"] = (query + 2 * key_value, d.hidden_size)
        sizes[f"layers.{layer}.o"] = (d.hidden_size, query)
        sizes[f"layers.{layer}.gate_up"] = (2 * d.intermediate_size, d.hidden_size)
        sizes[f"layers.{layer}.down"] = (d.hidden_size, d.intermediate_size)
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("text", type=Path)
    parser.add_argument("--max-tokens", type=int, default=30000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="RECIPE")
    args = parser.parse_args()
    source, texts = BUNDLED.get(args.checkpoint, args.checkpoint), [args.text.read_text(encoding="utf-8")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32"
        plan = plan_export(source, ExportOptions.of(precision="fp32"))
        plan.write(path)
        reference = Model.open(path)
        sizes = matrices(plan.architecture)
        print("| recipe | bits per weight | MB | perplexity | KL | top-1 kept | tokens/s |")
        print("|---|---|---|---|---|---|---|")
        for name, recipe in {"fp32": Recipe.named("fp32"), **{name: RECIPES[name] for name in args.only}}.items():
            path = Path(folder) / "trial"
            plan_export(source, ExportOptions(recipe=recipe)).write(path, force=True)
            model = Model.open(path)
            result = evaluate(model, texts, reference=reference, max_tokens=args.max_tokens)
            speed = benchmark(path, runs=args.runs).decode_tokens_per_s
            megabytes = model.manifest.files["weights.bin"].size / 1e6
            cells = f"{recipe.average_bits(sizes):.2f} | {megabytes:.2f} | {result.perplexity:.3f} | {result.kl:.5f}"
            print(f"| {name} | {cells} | {result.top1_agreement:.1%} | {speed:.0f} |", flush=True)


if __name__ == "__main__":
    main()
