"""Memory and time of an export: random weights in the shape of Llama 3.2 1B (1.24 billion, bfloat16, tied).

    python tests/benchmarks/export_memory.py FOLDER [--precision int4]

FOLDER keeps the checkpoint (2.5 GB) for the next run.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SKIPSTONE = Path(sys.executable).with_name("skipstone")
CONFIG = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
}
TOKENIZER = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="int4")
    options = parser.parse_args()
    checkpoint = options.folder / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        write_checkpoint(checkpoint)
    start = time.perf_counter()
    target = options.folder / options.precision
    command = [SKIPSTONE, "export", checkpoint, "-o", target, "--precision", options.precision, "--force"]
    subprocess.run([*command, "--quiet"], check=True)
    seconds = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    size = sum(file.stat().st_size for file in target.iterdir())
    print(f"{options.precision}: {seconds:.0f} s, peak {peak_bytes / 1e9:.2f} GB, bundle {size / 1e9:.2f} GB")


def write_checkpoint(folder: Path) -> None:
    from skipstone.exporters.families import read_architecture

    folder.mkdir(parents=True, exist_ok=True)
    shapes = read_architecture(CONFIG).tensor_shapes()
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            for _ in range(shape[0] if len(shape) > 1 else 1):
                row = random.standard_normal(shape[-1], np.float32) * np.float32(0.02)
                file.write((row.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "config.json").write_text(json.dumps(CONFIG))


if __name__ == "__main__":
    main()
