"""skipstone ngrams: count what follows what in the user's texts, for suggestions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import DownloadColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import Printing
from skipstone.cli.terminal import notes, print_json, progress_bar
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.runtime.text import NgramCounts, Tokenizer

NAME = "ngrams"
EXAMPLES = """\b
Examples:
  skipstone ngrams ./my-project -o my.ngrams --bundle pebble
  skipstone ngrams letters.txt notes/ -o my.ngrams --bundle my-bundle --max-size 20MB
  skipstone ngrams letters.txt -o my.ngrams --bundle my-bundle --min-count 2 --json"""


@unfold
def run(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="UTF-8 texts, or folders of them.")],
    printing: Printing,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="STORE", help="The file to write.")],
    bundle: Annotated[
        str, typer.Option("--bundle", metavar="BUNDLE", help="Whose tokenizer: a bundle folder, or the word pebble.")
    ],
    min_count: Annotated[
        int, typer.Option("--min-count", metavar="N", min=1, help="Leave out what stood there less often.")
    ] = 1,
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Leave out the rarest beyond it; 500kB, 3MB, 1GB.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Count which token follows the last 1 to 5 in texts of yours.

    `suggest --ngrams STORE` makes drafts that continue as these texts do. Files are read as plain text; in folders,
    hidden files and those that are no UTF-8 text are left out. A store fits the bundles of one tokenizer.
    """
    from skipstone.cli.naming import bundle_folder
    from skipstone.ngrams import find_texts, parse_size, require_place, vocabulary_of
    from skipstone.runtime.bundle import Bundle
    from skipstone.runtime.text import NgramCounts, Tokenizer

    start, limit = time.perf_counter(), None if max_size is None else parse_size(max_size)
    require_place(output, force=force)
    found = find_texts(files)
    opened = Bundle.open(bundle_folder(bundle))
    counts = NgramCounts()
    num_skipped = _count(found, Tokenizer.load(opened.place), counts, quiet=printing.quiet)
    if not counts.num_tokens:
        raise ConfigError("there is no text to count in; give UTF-8 files, or folders that hold some")
    store = counts.store(vocabulary=vocabulary_of(opened), min_count=min_count, max_bytes=limit)
    if not len(store.table.counts):
        raise ConfigError(f"nothing stood there {min_count} times or more; lower --min-count, or give longer texts")
    size, table = store.save(output), store.table
    facts = {
        "output": str(output),
        "files": len(found) - num_skipped,
        "skipped": num_skipped,
        "tokens": counts.num_tokens,
        "contexts": len(table.keys),
        "ngrams": len(table.counts),
        "least_count": int(table.counts.min()),
        "bytes": size,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if printing.as_json:
        print_json(facts)
    notes(quiet=printing.quiet).print(_summary(facts))


def _count(found: list[tuple[Path, bool]], tokenizer: Tokenizer, counts: NgramCounts, *, quiet: bool) -> int:
    """Count the texts with a bar; return how many files hold none."""
    from skipstone.ngrams import read_found

    num_skipped, sizes = 0, [path.stat().st_size for path, _ in found]
    with progress_bar("counting", total=sum(sizes), count=DownloadColumn(), quiet=quiet) as (progress, task):
        for (path, named), size in zip(found, sizes, strict=True):
            text = read_found(path, named=named)
            if text is None:
                num_skipped += 1
            else:
                counts.add(tokenizer.encode(text, add_special_tokens=False))
            progress.advance(task, size)
    return num_skipped


def _summary(facts: dict[str, object]) -> str:
    skipped = f", {facts['skipped']} left out" if facts["skipped"] else ""
    counted = f"{facts['tokens']:,} tokens of {facts['files']} {'file' if facts['files'] == 1 else 'files'}{skipped}"
    often = "" if facts["least_count"] == 1 else f" that stood there {facts['least_count']} times or more"
    kept = f"{facts['ngrams']:,} n-grams{often}"
    return f"{facts['output']}: {counted}; {kept}, {facts['bytes']:,} bytes, {facts['seconds']:.1f} s"
