"""Rotary tables: computed where texts run, as far as they go, and no byte of a bundle; older bundles hold theirs."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import MakeBundle, MakeCheckpoint
from numpy.typing import NDArray
from onnx import numpy_helper

from skipstone.devices import open_device
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import RotaryEntry, write_manifest
from skipstone.runtime.bundle.formats import ADDED_FIELDS
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.engine.rotary_tables import RotaryTables, rotary_rows

FAR = 1_024_000
PROMPT = [1, *range(40, 80)]
PAIRS = tuple((1e4 ** (-np.arange(16) / 16)).astype(np.float32).tolist())
ENTRY = RotaryEntry(frequencies=PAIRS, magnitude=1.25, long_frequencies=tuple(pair / 2 for pair in PAIRS))


def whole_tables(
    rotary: RotaryEntry, frequencies: tuple[float, ...], length: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The slow, obvious version, as exports wrote it up to format 5: all positions at once."""
    turns = np.array(frequencies, np.float32)
    angles = np.outer(np.arange(length, dtype=np.float32), turns).astype(np.float64)
    shape = (length, width - angles.shape[1])
    cosines = np.concatenate([np.cos(angles) * rotary.magnitude, np.ones(shape)], axis=1).astype(np.float32)
    sines = np.concatenate([np.sin(angles) * rotary.magnitude, np.zeros(shape)], axis=1).astype(np.float32)
    return cosines, sines


@pytest.fixture(scope="module")
def far(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    """A bundle of a tiny model that could read a million tokens."""
    return make_bundle(make_checkpoint(max_position_embeddings=FAR), precision="int8")


def logits_of(model: Model) -> NDArray[np.float32]:
    """The logits of a prompt, of one token behind it, and of some drafted ones."""
    sequence, rows = model.new_sequence(), []
    for token_ids, draft in ((PROMPT[:10], Draft.empty()), (PROMPT[10:], Draft.chain((90, 91, 92), source="test"))):
        sequence.append(token_ids)
        rows.append(sequence.extend(draft).copy())
    return np.concatenate(rows)


def tables_of(tiny: Model, *, length: int, context: int = 4096, border: int | None = None) -> RotaryTables:
    manifest = replace(tiny.manifest, context_length=context, long_rope_from=border)
    entries = (replace(ENTRY, frequencies=PAIRS[:8], long_frequencies=PAIRS[8:]), RotaryEntry(frequencies=PAIRS[2:6]))
    return RotaryTables(replace(manifest, rotaries=entries), open_device(), length=length)


# Rows


@pytest.mark.parametrize("is_long", [False, True])
def test_rows_are_those_of_whole_tables_bit_by_bit_wherever_they_begin(is_long: bool) -> None:
    frequencies = ENTRY.long_frequencies if is_long else ENTRY.frequencies
    assert frequencies is not None
    wanted = whole_tables(ENTRY, frequencies, 5000, 24)
    for start, end in ((0, 5000), (0, 1), (1, 8), (1023, 1025), (4093, 5000), (7, 7)):
        found = rotary_rows(ENTRY, range(start, end), width=24, is_long=is_long)
        for rows, table in zip(found, wanted, strict=True):
            assert rows.dtype == np.float32
            np.testing.assert_array_equal(rows, table[start:end])


def test_rows_of_the_last_of_a_million_positions_are_right() -> None:
    places = range(FAR - 3, FAR)
    cosines, sines = rotary_rows(replace(ENTRY, magnitude=1.0), places, width=16)
    for row, place in enumerate(places):
        angles = [float(np.float32(np.float32(place) * np.float32(pair))) for pair in PAIRS]
        np.testing.assert_allclose(cosines[row], np.cos(angles), atol=1e-7)
        np.testing.assert_allclose(sines[row], np.sin(angles), atol=1e-7)


@pytest.mark.parametrize("reached", [(1,), (1024, 1025), (3, 2, 1500, 1024, 3000), (3000,), (9999,)])
def test_tables_hold_the_rows_that_were_asked_for_however_they_grew(tiny: Model, reached: tuple[int, ...]) -> None:
    tables = tables_of(tiny, length=3000, border=64)
    for length in reached:
        tables.reach(length)
    num_ready = min(max(reached), 3000)
    assert tables.num_ready >= num_ready
    buffers = {name: buffer.read() for name, buffer in tables.buffers().items()}
    assert list(buffers) == ["cosines_0", "cosines_1", "sines_0", "sines_1"]
    for start, turns in ((0, (PAIRS[:8], PAIRS[2:6])), (4096, (PAIRS[8:], PAIRS[2:6]))):
        for number, frequencies in enumerate(turns):
            rotary = RotaryEntry(frequencies=frequencies, magnitude=(1.25, 1.0)[number])
            wanted = whole_tables(rotary, frequencies, num_ready, 8)
            for name, table in zip(("cosines", "sines"), wanted, strict=True):
                np.testing.assert_array_equal(buffers[f"{name}_{number}"][start : start + num_ready], table)


def test_rows_that_are_there_are_never_written_again(tiny: Model) -> None:
    tables = tables_of(tiny, length=4096)
    tables.reach(1000)
    (cosines, *_) = tables.buffers().values()
    cosines.write(7, slice(1024))
    for length in (1, 1024, 2000, 4096):
        tables.reach(length)
    assert (cosines.read()[:1024] == 7).all() and (cosines.read()[1024:] <= 1.25).all()


def test_texts_in_several_threads_may_ask_for_rows_at_once(tiny: Model) -> None:
    tables = tables_of(tiny, length=50_000)
    threads = [Thread(target=tables.reach, args=(length,)) for length in range(1000, 50_000, 3000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = whole_tables(ENTRY, PAIRS[:8], 49_000, 8)
    np.testing.assert_array_equal(tables.buffers()["sines_0"].read()[:49_000], wanted[1])


# What is shared, and what is not in the bundle


def test_texts_and_stages_share_their_tables_and_a_larger_context_gets_larger_ones(tiny_stages: Model) -> None:
    model = Model(tiny_stages.bundle, tiny_stages.device)
    small = model.sessions.rotary_tables(64)
    assert model.sessions.rotary_tables(32) is small and small.length == 64
    large = model.sessions.rotary_tables(256)
    assert large.length == 256 and model.sessions.rotary_tables(64) is large


def test_a_model_that_sees_a_million_tokens_makes_a_small_bundle(far: Path) -> None:
    assert sum(file.stat().st_size for file in far.iterdir()) < 1e6
    graphs = [onnx.load(file, load_external_data=False).graph for file in far.glob("*.onnx")]
    assert not [tensor.name for graph in graphs for tensor in graph.initializer if FAR in tensor.dims]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc")
def test_such_a_model_takes_memory_for_the_text_that_it_has(far: Path, tiny: Model) -> None:
    LanguageModel(tiny).generate("def add(", max_new_tokens=8)  # what any first text takes
    before = resident_bytes()
    model = LanguageModel(Model.open(far))
    made = model.generate("def add(", max_new_tokens=8)
    batch = model.generate(["def add(", "class"], max_new_tokens=4, decode="plain")
    assert made.token_ids and len(batch) == 2
    assert resident_bytes() - before < 40e6
    assert model.runtime.sessions.rotary_tables(1).num_ready <= 4096


def test_arrays_beside_the_cache_are_as_large_as_the_text_needs_them(far: Path) -> None:
    """A device may have no memory that costs nothing until it is written."""
    sequence = Model.open(far).new_sequence()
    sequence.append([1] * 600)
    tracemalloc.start()
    sequence.extend(Draft.chain((5, 6), source="test"))
    sequence.extend(Draft((5, 6), "test", (0, 0)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


def test_its_text_is_that_of_the_same_model_with_a_short_context(
    far: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    near = make_bundle(make_checkpoint(), precision="int8")
    np.testing.assert_array_equal(logits_of(Model.open(far)), logits_of(Model.open(near)))


# Bundles of older formats

LONG: dict[str, Any] = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1 + pair / 8 for pair in range(8)],
        "long_factor": [3 + pair / 2 for pair in range(8)],
    },
}
GEMMA: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}


def as_format_5(bundle: Path, folder: Path) -> Path:
    """Return a copy whose graphs hold the tables, as exports wrote them before."""
    shutil.copytree(bundle, folder)
    manifest = Model.open(bundle).manifest
    tables = {}
    for number, rotary in enumerate(manifest.rotaries):
        forms = [rotary.frequencies, *([rotary.long_frequencies] if rotary.long_frequencies else [])]
        width = manifest.cache[0].head_size // 2
        parts = [whole_tables(rotary, form, manifest.context_length, width) for form in forms]
        for name, halves in zip(("cosines", "sines"), zip(*parts, strict=True), strict=True):
            tables[f"{name}_{number}"] = np.concatenate(halves)
    for file in folder.glob("stage-*.onnx"):
        model = onnx.load(file, load_external_data=False)
        for value in [value for value in model.graph.input if value.name in tables]:
            model.graph.input.remove(value)
            model.graph.initializer.append(numpy_helper.from_array(tables[value.name], value.name))
        onnx.save(model, file)
    (folder / "skipstone.json").unlink()
    data = json.loads(write_manifest(folder, lambda files: replace(manifest, files=files, rotaries=())).to_json())
    old = {
        name: value for name, value in data.items() if name not in ADDED_FIELDS[6] | ADDED_FIELDS[7] | ADDED_FIELDS[9]
    } | {"format_version": 5}
    (folder / "skipstone.json").write_text(json.dumps(old), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("model_type", "settings", "num_kinds"),
    [("llama", {}, 1), ("phi3", LONG, 1), ("gemma3_text", GEMMA, 2), ("gpt2", {}, 0)],
)
def test_a_bundle_that_holds_its_tables_gives_the_same_bits(
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    tmp_path: Path,
    model_type: str,
    settings: dict[str, Any],
    num_kinds: int,
) -> None:
    bundle = make_bundle(make_checkpoint(model_type, **settings), exits="2")
    new, old = Model.open(bundle), Model.open(as_format_5(bundle, tmp_path / "old"))
    assert (len(new.manifest.rotaries), old.manifest.rotaries) == (num_kinds, ())
    np.testing.assert_array_equal(logits_of(old), logits_of(new))
