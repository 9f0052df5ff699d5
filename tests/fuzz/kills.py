"""Kills at random moments: what was there is whole afterwards, the next run succeeds, and nothing is left behind.

PYTHONPATH=tests python tests/fuzz/kills.py --kills 100
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import skipstone
import skipstone.api
import skipstone.runtime.engine
from fuzz.bases import make_bases
from skipstone.cli import main as run_program
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.text import SuffixMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What is killed, and what must hold afterwards."""

    run: Callable[[], object]
    check: Callable[[], object]
    folder: Path


def forked(work: Callable[[], object], *, killed_after_s: float | None = None) -> int:
    """Run work in a child, killed after some seconds; return its status."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            work()
            os._exit(0)
        except SystemExit as error:
            os._exit(1 if error.code else 0)
        except BaseException:
            os._exit(1)
    if killed_after_s is not None:
        time.sleep(killed_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def deeds(place: Path) -> dict[str, Deed]:
    """Return what is killed, by name; each has a folder of its own."""
    bases = make_bases(place / "bases")
    folders = {name: place / name for name in ("export", "forced export", "suffix memory", "kept files")}
    for folder in folders.values():
        folder.mkdir()
    new, forced = folders["export"] / "out", folders["forced export"] / "out"
    skipstone.export(bases.checkpoint, forced, precision="fp32")
    memory = folders["suffix memory"] / "memory"

    def export() -> None:
        skipstone.export(bases.checkpoint, new, precision="fp32", force=new.exists())

    def force() -> None:
        skipstone.export(bases.checkpoint, forced, precision="fp32", force=True)

    def remember() -> None:
        kept = SuffixMemory(file=memory, vocabulary="a" * 64)
        for number in range(50):
            kept.add([number, *range(200)])

    def tune() -> None:
        os.environ["SKIPSTONE_CACHE"] = str(folders["kept files"])
        run_program_with("tune", "costs", str(bases.bundle))

    def use() -> None:
        warnings.simplefilter("error")
        os.environ["SKIPSTONE_CACHE"] = str(folders["kept files"])
        with skipstone.load(bases.bundle, threads=1) as model:
            model.generate("the fox", max_new_tokens=2)

    return {
        "export": Deed(run=export, check=lambda: Bundle.open(new).verify(), folder=new.parent),
        "forced export": Deed(run=force, check=lambda: Bundle.open(forced).verify(), folder=forced.parent),
        "suffix memory": Deed(run=remember, check=remember, folder=memory.parent),
        "kept files": Deed(run=tune, check=use, folder=folders["kept files"]),
    }


def run_program_with(*arguments: str) -> None:
    sys.argv = ["skipstone", *arguments]
    if code := run_program():
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    kills, random = parser.parse_args().kills, Random(18)
    with tempfile.TemporaryDirectory() as folder:
        for name, deed in deeds(Path(folder)).items():
            start = time.monotonic()
            forked(deed.run)
            whole_s, damaged, failed = time.monotonic() - start, 0, 0
            for _ in range(kills):
                forked(deed.run, killed_after_s=random.uniform(0, whole_s))
                damaged += forked(deed.check) != 0
                failed += forked(deed.run) != 0
            left = [path.name for path in deed.folder.rglob("*") if "partial" in path.name or ".old-" in path.name]
            told = f"{damaged} damaged, {failed} next runs failed, {len(left)} left behind {left[:3]}"
            print(f"{name}: {kills} kills, {told}")


if __name__ == "__main__":
    main()
