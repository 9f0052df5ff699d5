"""Every family from the command line: a tiny random checkpoint, `skipstone export --check`, `skipstone generate`.

    python examples/families/run.py [FAMILY ...] [--markdown docs/families.md]

Needs torch and transformers, which make the checkpoints and say what their logits are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from checkpoints import FAMILIES, write_checkpoint

SKIPSTONE = Path(sys.executable).with_name("skipstone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [model_type for model_type, _ in FAMILIES.values()]
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--markdown", type=Path, help="file whose table between the two marks is replaced")
    options = parser.parse_args()
    if unknown := set(options.families) - set(known):
        parser.error(f"unknown family {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    rows = ["| family | `model_type` | fp32: largest error of a logit | int8: KL | int4: KL |", "|---|---|---|---|---|"]
    print("\n".join(rows))
    for name, (model_type, settings) in FAMILIES.items():
        if model_type in (options.families or [model_type]):
            rows.append(row(name, model_type, settings))
            print(rows[-1], flush=True)
    if options.markdown:
        before, _, rest = options.markdown.read_text().partition("<!-- table -->\n")
        after = rest.partition("<!-- end of table -->")[2]
        table = "\n".join(rows)
        options.markdown.write_text(f"{before}<!-- table -->\n{table}\n<!-- end of table -->{after}")


def row(name: str, model_type: str, settings: dict[str, object]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "checkpoint")
        write_checkpoint(checkpoint, model_type, settings)
        found = [check(checkpoint, Path(folder, precision), precision) for precision in ("fp32", "int8", "int4")]
    error = max(way["max_logit_error"] for way in found[0])
    kls = [max(way["kl"] for way in ways) for ways in found[1:]]
    return f"| {name} | {model_type} | {error:.1e} | " + " | ".join(f"{kl:.4f}" for kl in kls) + " |"


def check(checkpoint: Path, bundle: Path, precision: str) -> list[dict[str, float]]:
    """Export, compare, generate; return the differences of every way of feeding tokens."""
    run("export", checkpoint, "-o", bundle, "--precision", precision, "--check")
    run("generate", bundle, "--prompt", "Once upon a time", "--max-new-tokens", "64")
    figures = json.loads(run("inspect", bundle, "--json"))["manifest"]["check"]
    return list(figures["ways"].values())


def run(*command: object) -> str:
    return subprocess.run([SKIPSTONE, *map(str, command)], check=True, stdout=subprocess.PIPE).stdout.decode()


if __name__ == "__main__":
    main()
