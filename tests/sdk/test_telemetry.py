"""No telemetry: neither we nor onnxruntime leave an identity behind, and nothing goes out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Runs commands while a thread looks for sockets, also those that Python does not know. In a network of its own, the
# system's counters tell what was tried, by other processes too.
WATCHED = """
import contextlib, json, os, sys, threading, time
from pathlib import Path

ATTEMPTS = {"OutRequests", "OutNoRoutes", "OutDatagrams", "ActiveOpens", "AttemptFails"}

def sockets():
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("socket:"):
                yield target

def watch():
    while True:
        opened.update(sockets())
        time.sleep(0.002)

def attempts():
    lines = [line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines()]
    for names, values in zip(lines[::2], lines[1::2]):
        for name, value in zip(names, values):
            if name in ATTEMPTS and value != "0":
                yield names[0] + name

inherited, opened = set(sockets()), set()
threading.Thread(target=watch, daemon=True).start()
from skipstone.cli import main
commands, own_network = json.loads(sys.argv[1])
for command in commands:
    sys.argv = ["skipstone", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
print(json.dumps([*(opened - inherited), *(attempts() if own_network else ())]))
"""


def own_network() -> list[str]:
    """Return what runs a program in a network of its own, where nothing is connected; empty where none is allowed."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    allowed = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if allowed else []


def fresh_home(folder: Path) -> dict[str, str]:
    """Return an environment in which no program has left anything yet."""
    left_out = ("XDG_", "SKIPSTONE_", "ORT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "HOME": str(folder), "USERPROFILE": str(folder)}


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are counted in /proc")
def test_export_generate_and_bench_leave_nothing_of_onnxruntime_and_open_no_socket(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    home, bundle = tmp_path / "home", str(tmp_path / "bundle")
    home.mkdir()
    commands = [
        ["export", str(tiny_checkpoint), "-o", bundle, "--quiet"],
        ["generate", bundle, "-p", "def add", "--max-new-tokens", "4", "--quiet"],
        ["bench", "speed", bundle, "--prompt-tokens", "8", "--new-tokens", "4", "--runs", "1", "--quiet"],
    ]
    network = own_network()
    program = [*network, sys.executable, "-c", WATCHED, json.dumps([commands, bool(network)])]
    outcome = subprocess.run(program, env=fresh_home(home), capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout.splitlines()[-1]) == []
    ours = home / ".cache" / "skipstone"
    assert [path for path in home.rglob("*") if path.is_file() and not path.is_relative_to(ours)] == []


@pytest.mark.parametrize(("setting", "value"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
@pytest.mark.parametrize("module", ["skipstone", "skipstone.devices", "skipstone.cli.app"])
def test_onnxruntime_is_told_before_it_is_imported_and_a_setting_of_the_users_stays(
    module: str, setting: dict[str, str], value: str, tmp_path: Path
) -> None:
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
import {module}
import onnxruntime
"""
    outcome = subprocess.run(
        [sys.executable, "-c", code], env=fresh_home(tmp_path) | setting, capture_output=True, text=True
    )
    assert outcome.stdout.strip() == value
