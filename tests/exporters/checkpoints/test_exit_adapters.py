"""Adapters of exits: their file, their graphs, and that everything that reads an exit reads it through its adapter."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_families import FAMILIES
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from safetensors.numpy import load_file, save_file

import skipstone
from skipstone.api import plan
from skipstone.check import part_sizes
from skipstone.errors import CheckpointError, ConfigError
from skipstone.exporters.checkpoints import ADAPTERS_FILE, EPSILON, ExitAdapter, ExitAdapters, adapters_bytes
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model, Part
from skipstone.runtime.methods.depth import calibrate, depth_hidden, depth_logits

SIZE, RANK = 52, 5
TOKENS = np.random.default_rng(1).integers(3, 300, size=40).tolist()


def identity() -> ExitAdapter:
    """Return the adapter that is the plain exit."""
    gain, down = np.ones(SIZE, np.float32), np.ones((RANK, SIZE), np.float32)
    return ExitAdapter(gain=gain, down=down, up=np.zeros((SIZE, RANK), np.float32))


def random_adapter(seed: int = 0) -> ExitAdapter:
    draw = np.random.default_rng(seed).standard_normal
    parts = {"gain": draw(SIZE) + 1, "down": draw((RANK, SIZE)) / 7, "up": draw((SIZE, RANK))}
    return ExitAdapter(**{name: part.astype(np.float32) for name, part in parts.items()})


def adapted(adapter: ExitAdapter, hidden: Any) -> Any:
    """Return what an adapter makes of hidden states [T, E], by torch."""
    gain, down, up = (torch.from_numpy(part) for part in (adapter.gain, adapter.down, adapter.up))
    normed = torch.nn.functional.rms_norm(torch.tensor(hidden), gain.shape, gain, EPSILON)
    return (normed + normed @ down.T @ up.T).numpy()


def at_depth(model: Model, what: Callable[..., Any], num_layers: int) -> Any:
    return np.concatenate([piece[num_layers] for piece in what(model, TOKENS)])


@pytest.fixture(scope="session")
def adapters_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters after 1 layer, the plain exit, and after 2, random; none after 3."""
    file = tmp_path_factory.mktemp("adapters") / "some.safetensors"
    file.write_bytes(adapters_bytes({1: identity(), 2: random_adapter()}, weights="of no checkpoint"))
    return file


@pytest.fixture(scope="session")
def with_adapters(tiny_checkpoint: Path, make_bundle: MakeBundle, adapters_file: Path) -> Model:
    return Model.open(make_bundle(tiny_checkpoint, exits="auto", exit_adapters=adapters_file))


# What is computed


@pytest.mark.parametrize("precision", ["fp32", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graphs_compute_what_torch_does_and_the_plain_exit_where_nothing_was_learned(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, adapters_file: Path, family: str, precision: str
) -> None:
    checkpoint = make_checkpoint(family, **FAMILIES[family])
    plain = Model.open(make_bundle(checkpoint, precision=precision, exits="auto"))
    model = Model.open(make_bundle(checkpoint, precision=precision, exits="auto", exit_adapters=adapters_file))
    assert model.manifest.adapters == {"1": "exit-01.onnx", "2": "exit-02.onnx"} and not plain.manifest.adapters
    for layers in (3, 4):
        np.testing.assert_array_equal(at_depth(model, depth_logits, layers), at_depth(plain, depth_logits, layers))
    wanted = at_depth(plain, depth_logits, 1)
    tolerance = 1e-5 if precision == "fp32" else 1e-2  # int4 rounds what the head reads, so a last digit may flip one
    np.testing.assert_allclose(at_depth(model, depth_logits, 1), wanted, atol=tolerance * np.abs(wanted).max())
    hidden = at_depth(plain, depth_hidden, 2)
    (found,) = model.sessions.adapter_of(Part(exit=2)).run(None, {"hidden": hidden[None]})
    np.testing.assert_allclose(found[0], adapted(random_adapter(), hidden), atol=1e-4)


def test_the_head_reads_the_adapter_and_the_later_stages_do_not(with_adapters: Model, tiny_stages: Model) -> None:
    np.testing.assert_array_equal(at_depth(with_adapters, depth_hidden, 2), at_depth(tiny_stages, depth_hidden, 2))
    read = adapted(random_adapter(), at_depth(tiny_stages, depth_hidden, 2))
    head = tiny_stages.sessions.graphs[-1]
    (wanted,) = head.run(["logits"], {"hidden": read[None], "rows": np.arange(len(TOKENS))})
    np.testing.assert_allclose(at_depth(with_adapters, depth_logits, 2), wanted, atol=1e-3)


def test_peeks_see_the_adapter_in_both_ways_and_the_next_call_is_exact(
    with_adapters: Model, tiny_stages: Model
) -> None:
    wanted = at_depth(with_adapters, depth_logits, 2)
    full = at_depth(tiny_stages, depth_logits, 4)
    sequence = with_adapters.new_sequence()
    sequence.append(TOKENS[:30])
    np.testing.assert_allclose(sequence.peek(TOKENS[:30], num_stages=2), wanted[29], atol=1e-3)
    np.testing.assert_allclose(sequence.extend(Draft.empty())[0], full[29], atol=1e-3)
    sequence.append(TOKENS[30:])
    sequence.peek_hidden(TOKENS[30:], num_stages=2)
    np.testing.assert_allclose(sequence.peek_logits(), wanted[39], atol=1e-3)
    np.testing.assert_allclose(sequence.extend(Draft.empty())[0], full[39], atol=1e-3)
    assert np.abs(wanted[39] - at_depth(tiny_stages, depth_logits, 2)[39]).max() > 1


def test_a_draft_pass_that_goes_on_behind_the_exit_has_no_adapter(with_adapters: Model, tiny_stages: Model) -> None:
    found = []
    for model in (with_adapters, tiny_stages):
        sequence = model.new_sequence()
        sequence.append(TOKENS)
        found.append(sequence.peek(TOKENS, num_stages=2, then=(3,)).copy())
    np.testing.assert_array_equal(*found)


def test_a_calibration_judges_the_exits_with_their_adapters(with_adapters: Model, tiny_stages: Model) -> None:
    text = " ".join(str(number) for number in range(1500))
    found, plain = (calibrate(model, [text]).exits for model in (with_adapters, tiny_stages))
    assert [one.agreement for one in found][2] == plain[2].agreement
    assert found[1].agreement != plain[1].agreement


def test_texts_drafted_by_exits_with_adapters_are_those_of_plain_decoding(
    tiny_checkpoint: Path, make_bundle: MakeBundle, adapters_file: Path
) -> None:
    model = skipstone.load(make_bundle(tiny_checkpoint, exits="auto", exit_adapters=adapters_file))
    texts = [model.generate("def add", decode=method, max_new_tokens=40).token_ids for method in ("plain", "self")]
    assert texts[0] == texts[1]


# The file


def test_a_file_holds_what_was_put_in_and_equal_adapters_are_equal_bytes(tmp_path: Path) -> None:
    content = adapters_bytes({2: random_adapter(), 10: identity()}, weights="abc")
    assert content == adapters_bytes({10: identity(), 2: random_adapter()}, weights="abc")
    (tmp_path / "file").write_bytes(content)
    found = ExitAdapters.open(tmp_path / "file")
    assert (found.ranks, found.hidden_size, found.weights) == ({2: RANK, 10: RANK}, SIZE, "abc")
    for part in ("gain", "down", "up"):
        np.testing.assert_array_equal(getattr(found.read(2), part), getattr(random_adapter(), part))


def changed(file: Path, target: Path, tensors: dict[str, Any], **about: object) -> Path:
    """Write the file again with other tensors, None for one that is left out, or other metadata."""
    known = {"format_version": 1, "hidden_size": SIZE, "weights": "abc"} | about
    stored = {name: one for name, one in (load_file(file) | tensors).items() if one is not None}
    save_file(stored, target, {"skipstone": json.dumps(known)})
    return target


@pytest.mark.parametrize(
    ("tensors", "about", "message"),
    [
        ({"exits.1.up": None}, {}, r"lacks exits\.1\.up; make the file anew"),
        ({"exits.1.up": np.zeros((3, 4), np.float32)}, {}, r"exits\.1\.up has shape \[3, 4\], wanted \[52, 5\]"),
        ({"lora_A": np.zeros(3, np.float32)}, {}, "'lora_A' is no part of an adapter"),
        ({"exits.1.gain": np.full(SIZE, np.nan, np.float32)}, {}, "52 NaN or infinite values"),
        ({}, {"format_version": 2}, "has format version 2, this skipstone reads 1"),
        ({}, {"hidden_size": "?"}, "holds no adapters of exits"),
    ],
)
def test_a_damaged_file_is_refused_by_what_is_wrong(
    adapters_file: Path, tmp_path: Path, tensors: dict[str, Any], about: dict[str, object], message: str
) -> None:
    file = changed(adapters_file, tmp_path / "file", tensors, **about)
    with pytest.raises(CheckpointError, match=message):
        ExitAdapters.open(file).read(1)


def test_other_safetensors_and_no_file_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no adapters of exits"):
        ExitAdapters.open(tiny_checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        plan(tiny_checkpoint, exits="auto", exit_adapters=tmp_path / "missing")


# Which file an export takes


@pytest.fixture
def own(tiny_checkpoint: Path, tmp_path: Path, adapters_file: Path) -> Path:
    """A checkpoint with adapters in its folder."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    shutil.copy(adapters_file, folder / ADAPTERS_FILE)
    return folder


def test_an_export_with_exits_takes_the_file_in_the_folder_and_says_so(own: Path) -> None:
    chosen = plan(own, exits="2,3")
    file = own / ADAPTERS_FILE
    assert chosen.adapters == {"2": "exit-02.onnx"}
    assert chosen.remarks == (
        f"exits after 2 layers take their adapters from {file}",
        f"{file} has no adapter for exits after 3 layers: they stay plain",
        f"{file} has adapters for exits that are not asked for: after 1 layers",
        f"{file} was trained for other weights: these exits may be wrong more often",
    )


def test_an_export_without_exits_or_by_wish_takes_none(own: Path) -> None:
    for options in ({}, {"exits": "auto", "exit_adapters": "none"}):
        chosen = plan(own, **options)
        assert (chosen.adapters, chosen.remarks) == ({}, ())


def test_inspect_shows_adapters_and_a_draft_head(
    make_bundle: MakeBundle,
    tiny_checkpoint: Path,
    adapters_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bundle = make_bundle(tiny_checkpoint, exits="auto", exit_adapters=adapters_file, draft_head=64)
    facts = json.loads(CommandLine(monkeypatch, capfd)("inspect", bundle, "--json").out)
    assert facts["exit_adapters"] == "after 1, 2 layers"
    assert facts["draft_head"] == f"the first 64 of {facts['vocabulary']} tokens"
    assert facts["parts_bytes"]["exit adapters"] == 2 * (SIZE + 2 * RANK * SIZE) * 4
    plain = part_sizes(Bundle.open(make_bundle(tiny_checkpoint, exits="auto")))
    assert {**plain, "exit adapters": facts["parts_bytes"]["exit adapters"]} == facts["parts_bytes"]


def test_adapters_that_cannot_be_used_are_refused(
    tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint, adapters_file: Path
) -> None:
    with pytest.raises(ConfigError, match="no exits are asked for; add --exits auto"):
        plan(tiny_checkpoint, exit_adapters=adapters_file)
    with pytest.raises(ConfigError, match=r"after 1, 2 layers, and .* asked for are after 3; add --exits 1,2, or"):
        plan(tiny_checkpoint, exits="3", exit_adapters=adapters_file)
    with pytest.raises(ConfigError, match="does not go with optimum"):
        plan(tiny_checkpoint, exit_adapters=adapters_file, via="optimum")
    for config in ({"hidden_size": 56}, {"num_hidden_layers": 2}):
        with pytest.raises(CheckpointError, match=r"is for another model: hidden size 52, exits after 1, 2 layers"):
            plan(make_checkpoint(**config), exits="auto", exit_adapters=adapters_file)


def test_the_command_line_takes_a_file(
    tiny_checkpoint: Path, adapters_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    cli = CommandLine(monkeypatch, capfd)
    outcome = cli("export", tiny_checkpoint, "-o", tmp_path / "out", "--exits", "2", "--exit-adapters", adapters_file)
    assert outcome.code == 0
    assert f"exits after 2 layers take their adapters from {adapters_file}\n" in outcome.err
    manifest = json.loads((tmp_path / "out" / "skipstone.json").read_text())
    assert manifest["adapters"] == {"2": "exit-02.onnx"}
    stored = (tmp_path / "out" / "exit-02.onnx").read_bytes()
    assert hashlib.sha256(stored).hexdigest() == manifest["files"]["exit-02.onnx"]["sha256"]
