"""What caches of windowed layers take, and how long a step is, with rings and with all rows; of a random model.

python tests/benchmarks/ring_memory.py FOLDER [RUNS]      the model is written to FOLDER when it is not there

The model has the attention of Gemma 3 1B: 26 layers, each sixth sees all, the others windows of 512; one head of 256
for keys and values. It is narrow otherwise (640 channels), which makes the part of attention in a step larger. Steps
are timed in turn, in one process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

CONTEXTS = (8192, 32768)
LENGTHS = (500, 2000, 8000, 32000)
KINDS = {"rings": 256, "all rows": 1 << 20}


def main() -> None:
    folder, *rest = sys.argv[1:]
    bundles = {kind: Path(folder) / kind.replace(" ", "-") for kind in KINDS}
    if rest[:1] == ["--export"]:  # apart, as a process counts the memory of the one that starts it
        for kind, bundle in bundles.items():
            write_bundle(Path(folder), bundle, KINDS[kind])
        return
    if rest[:1] == ["--child"]:
        print(peak_of_full_cache(rest[1], int(rest[2])))
        return
    subprocess.run([sys.executable, __file__, folder, "--export"], check=True)
    for context in CONTEXTS:
        for kind, bundle in bundles.items():
            command = [sys.executable, __file__, folder, "--child", str(bundle), str(context)]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            print(f"context {context:6,} {kind:9} cache {found[0]} MB, the process at most {found[1]} MB")
    time_steps(bundles, num_runs=int(rest[0]) if rest else 9)


def write_bundle(folder: Path, bundle: Path, unit: int) -> None:
    """Write the bundle whose rings let so many rows leave at a time, unless it is there."""
    if bundle.exists():
        return
    import skipstone
    import skipstone.exporters.graph.rings

    # A unit that no context has room for leaves all rows in their place.
    skipstone.exporters.graph.rings.RING_UNIT = unit  # type: ignore[misc]
    skipstone.export(str(checkpoint_in(folder)), bundle, precision="int4")


def checkpoint_in(folder: Path) -> Path:
    """Return the folder of the random checkpoint, made where it is missing."""
    import torch
    import transformers

    path = folder / "checkpoint"
    if not path.exists():
        torch.manual_seed(0)
        config = transformers.Gemma3TextConfig(
            vocab_size=307,
            hidden_size=640,
            intermediate_size=2048,
            num_hidden_layers=26,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=256,
            sliding_window=512,
            max_position_embeddings=32768,
        )
        transformers.Gemma3ForCausalLM(config).save_pretrained(path)
        write_tokenizer(path)
    return path


def write_tokenizer(path: Path) -> None:
    """Write a tokenizer of bytes, as the texts do not matter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<unk>", "<s>", "</s>", *letters]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))


def peak_of_full_cache(bundle: str, context: int) -> str:
    """Return the megabytes of a cache whose every row is written, and those of the process at most."""
    from skipstone.runtime.engine import Draft, Model

    model = Model.open(bundle)
    sequence = model.new_sequence(context_length=context)
    sequence.append([*range(3, 203)])
    sequence.extend(Draft.empty())
    for buffer in sequence.cache:
        buffer.write(0)
    taken = sum(buffer.read().nbytes for buffer in sequence.cache)
    return f"{taken / 1e6:,.1f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:,.1f}"


def time_steps(bundles: dict[str, Path], *, num_runs: int) -> None:
    """Print the milliseconds of a step of one row, and of four, behind texts of some lengths; medians."""
    from skipstone.devices import open_device
    from skipstone.runtime.bundle import Bundle
    from skipstone.runtime.engine import Feed, Model

    models = {kind: Model(Bundle.open(bundle), open_device("cpu", threads=2)) for kind, bundle in bundles.items()}
    spaces = {kind: model.new_workspace() for kind, model in models.items()}
    for space in spaces.values():
        for buffer in space.cache:
            buffer.write(0)
    for length in LENGTHS:
        for num_rows in (1, 4):
            spent: dict[str, list[float]] = {kind: [] for kind in spaces}
            for run in range(num_runs + 1):
                for kind, space in spaces.items():
                    feed = Feed.of([5] * num_rows, rows=range(num_rows), length=length)
                    call = space.call(feed)
                    start = time.perf_counter()
                    call.run(feed)
                    spent[kind].append(1e3 * (time.perf_counter() - start))
                    if not run:  # the first one makes room
                        spent[kind].clear()
            told = ", ".join(f"{kind} {median(times):.2f} ms" for kind, times in spent.items())
            print(f"{num_rows} rows behind {length:6,}: {told}")


if __name__ == "__main__":
    main()
