"""Ctrl-C and sudden death: nothing half-done is left, and what was there stays whole."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MakeBundle, MakeCheckpoint

from skipstone.runtime.bundle import Bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork and other signals")

# The export of a tiny checkpoint, slow enough to be interrupted in the middle.
SLOW = """
import time
from skipstone.cli import main
from skipstone.exporters.checkpoints.tensors import StoredTensors

read = StoredTensors.read

def read_slowly(*arguments):
    time.sleep(0.03)
    return read(*arguments)

StoredTensors.read = read_slowly
main()
"""
# Runs commands in forks of a process that has run one, so that all is imported and a moment is one of the work itself.
FORKS = """
import contextlib, os, sys
from skipstone.cli import main

with contextlib.suppress(SystemExit):
    main()
for line in sys.stdin:
    if (pid := os.fork()) == 0:
        sys.argv, sys.stdin = ["skipstone", *line.rstrip("\\n").split("\\t")], None
        try:
            main()
        finally:
            os._exit(0)  # a fork has none of the threads that onnxruntime would end
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""
DEADLINE_S = 300
NUM_KILLS = 10


def start(*command: object, on_interrupt: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen[str]:
    """Start a program; what our own parent does with Ctrl-C does not matter."""
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, on_interrupt),
    )


def start_export(checkpoint: Path, output: Path, *options: str, **how: signal.Handlers) -> subprocess.Popen[str]:
    """Return an export that has begun to write."""
    process = start(sys.executable, "-c", SLOW, "export", checkpoint, "-o", output, *options, **how)
    end = time.monotonic() + DEADLINE_S
    while not any(output.parent.glob(f".{output.name}.partial-*/weights.bin")):
        assert process.poll() is None and time.monotonic() < end, "the export did not begin to write"
        time.sleep(0.005)
    return process


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Ctrl-C


def test_ctrl_c_ends_an_export_and_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    process = start_export(tiny_checkpoint, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=DEADLINE_S) == ("", "skipstone: interrupted\n")
    assert process.returncode == 130
    assert names_in(tmp_path) == []


def test_ctrl_c_during_a_forced_export_keeps_the_old_bundle(
    tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    shutil.copytree(make_bundle(tiny_checkpoint), tmp_path / "out")
    process = start_export(tiny_checkpoint, tmp_path / "out", "--force", "--precision", "int8")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=DEADLINE_S) == ("", "skipstone: interrupted\n")
    assert process.returncode == 130
    assert names_in(tmp_path) == ["out"]
    kept = Bundle.open(tmp_path / "out")
    kept.verify()
    assert kept.manifest.recipe["name"] == "fp32"


def test_ctrl_c_ends_a_text_where_it_is(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(make_checkpoint(max_position_embeddings=8192))
    program = Path(sys.executable).parent / "skipstone"
    process = start(program, "generate", bundle, "-p", "def", "-n", 8000, "--min-new-tokens", 8000)
    assert process.stdin is not None
    process.stdin.close()  # an open pipe is waited for: a document may come
    process.stdin = None
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, remarks = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, remarks) == (130, "skipstone: interrupted\n")
    assert 0 < len(first + rest) < 7000


def test_a_program_started_in_the_background_stays_deaf_to_ctrl_c(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A shell without job control starts `skipstone ... &` with the signal ignored, so that Ctrl-C ends others only."""
    process = start_export(tiny_checkpoint, tmp_path / "out", on_interrupt=signal.SIG_IGN)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    Bundle.open(tmp_path / "out").verify()


# Sudden death

Start = Callable[..., int]


class Forks:
    """Runs its first command to the end, then starts others and waits for them."""

    def __init__(self, *first: object) -> None:
        self._server = start(sys.executable, "-c", FORKS, *first)

    def start(self, *arguments: object) -> int:
        """Return the process id of a command that has just begun."""
        assert self._server.stdin is not None
        self._server.stdin.write("\t".join(map(str, arguments)) + "\n")
        self._server.stdin.flush()
        return int(self._read())

    def wait(self) -> None:
        assert self._read() == "ended\n"

    def _read(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()

    def close(self) -> None:
        self._server.communicate(timeout=DEADLINE_S)


@pytest.fixture
def forks(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    server = Forks("export", tiny_checkpoint, "-o", tmp_path_factory.mktemp("first") / "out")
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("existing", [False, True], ids=["fresh", "forced"])
def test_an_export_killed_at_any_moment_leaves_a_whole_bundle_or_none(
    forks: Forks, tiny_checkpoint: Path, tmp_path: Path, existing: bool
) -> None:
    output = tmp_path / "out"
    command = ("export", tiny_checkpoint, "-o", output, "--force")

    def run(*, kill_after_s: float | None = None) -> float:
        begin = time.monotonic()
        pid = forks.start(*command)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        forks.wait()
        return time.monotonic() - begin

    duration, chance = min(run() for _ in range(3)), random.Random(0)
    killed_while_writing = 0
    for moment in [chance.uniform(0, duration) for _ in range(NUM_KILLS)]:
        if not existing:
            shutil.rmtree(output)
        run(kill_after_s=moment)
        killed_while_writing += names_in(tmp_path) != (["out"] if output.exists() else [])
        if existing or output.exists():
            Bundle.open(output).verify()
        run()
        assert names_in(tmp_path) == ["out"]
        Bundle.open(output).verify()
    assert killed_while_writing > 0
