"""The manifest: what it accepts, what it refuses, and how it says so."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import BundleError
from skipstone.runtime.bundle import (
    Dimensions,
    FileEntry,
    LayerCache,
    Manifest,
    Provenance,
    RingLayout,
    RotaryEntry,
    StageEntry,
)


def toy_manifest() -> Manifest:
    """Two stages of one and two layers, a head, an exit after the first, an int8 cache in the middle layer."""
    return Manifest(
        family="llama",
        dimensions=Dimensions(
            vocab_size=100,
            hidden_size=16,
            intermediate_size=32,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            head_size=4,
        ),
        context_length=64,
        stages=(
            StageEntry(file="stage-00.onnx", first_layer=0, end_layer=1, embeds=True, ends_in_logits=False),
            StageEntry(file="stage-01.onnx", first_layer=1, end_layer=3, embeds=False, ends_in_logits=False),
        ),
        head="head.onnx",
        exits=(1,),
        cache=(
            LayerCache(num_heads=2, head_size=4, dtype="float32"),
            LayerCache(num_heads=2, head_size=4, dtype="int8"),
            LayerCache(num_heads=2, head_size=4, dtype="float16", window=8),
        ),
        recipe={"bits": 4, "skipped": ["head"]},
        bos_id=1,
        stop_ids=(2, 3),
        special_ids=(0,),
        provenance=Provenance(source="org/toy", tool_version="0.1.0", command="skipstone export org/toy toy"),
        files={name: FileEntry(size=10, sha256="ab" * 32) for name in ("stage-00.onnx", "stage-01.onnx", "head.onnx")},
    )


names = st.from_regex(r"[a-zé0-9_-]{1,6}(/[a-z]{1,4})?\.onnx", fullmatch=True)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
scales = st.floats(min_value=1e-6, max_value=1e6)
sizes = st.integers(1, 10**6)
head_sizes = st.integers(8, 10**6)
windows = st.none() | sizes
caches = st.builds(
    LayerCache,
    num_heads=sizes,
    head_size=head_sizes,
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    window=windows,
) | st.builds(LayerCache, num_heads=sizes, head_size=head_sizes, dtype=st.just("float32"), window=sizes, ring=sizes)
frequencies = st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple)
rotaries = frequencies.flatmap(
    lambda turns: st.builds(
        RotaryEntry,
        frequencies=st.just(turns),
        magnitude=scales,
        long_frequencies=st.none() | st.just(turns),
    )
)
entries = st.builds(
    FileEntry, size=st.integers(0, 2**50), sha256=st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    num_layers = draw(st.integers(1, 6))
    inner_ends = sorted(draw(st.sets(st.integers(1, num_layers - 1)))) if num_layers > 1 else []
    has_head = draw(st.booleans())
    files = draw(st.lists(names, min_size=len(inner_ends) + 2, max_size=len(inner_ends) + 4, unique=True))
    drafter = draw(st.none() | st.sampled_from(["drafter", "small/one"]))
    vocab_size = draw(st.integers(1, 1000))
    ids = st.integers(0, vocab_size - 1)
    stages = tuple(
        StageEntry(
            file=files[number],
            first_layer=first,
            end_layer=end,
            embeds=number == 0,
            ends_in_logits=end == num_layers and not has_head,
        )
        for number, (first, end) in enumerate(zip([0, *inner_ends], [*inner_ends, num_layers], strict=True))
    )
    cache = tuple(draw(st.lists(caches, min_size=num_layers, max_size=num_layers)))
    return Manifest(
        family=draw(st.text(max_size=8)),
        dimensions=Dimensions(
            vocab_size=vocab_size,
            hidden_size=draw(sizes),
            intermediate_size=draw(sizes),
            num_layers=num_layers,
            num_heads=draw(sizes),
            num_kv_heads=draw(sizes),
            head_size=draw(sizes),
        ),
        context_length=draw(sizes),
        stages=stages,
        head=files[-1] if has_head else None,
        exits=tuple(draw(st.lists(st.sampled_from(inner_ends), unique=True))) if has_head and inner_ends else (),
        cache=cache,
        cache_type="float16" if {layer.dtype for layer in cache} == {"float16"} else "float32",
        recipe=draw(st.dictionaries(st.text(max_size=5), json_data, max_size=3)),
        bos_id=draw(st.none() | ids),
        stop_ids=(stop_ids := tuple(draw(st.lists(ids, max_size=3)))),
        stop_sources={token_id: draw(st.text(max_size=5)) for token_id in stop_ids},
        sampling=draw(
            st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=2)
        ),
        special_ids=tuple(draw(st.lists(ids, max_size=3))),
        provenance=Provenance(source=draw(st.text()), tool_version=draw(st.text()), command=draw(st.text())),
        files={name: draw(entries) for name in [*files, *([f"{drafter}/skipstone.json"] if drafter else [])]},
        draft_model=drafter,
        rotaries=tuple(draw(st.lists(rotaries, max_size=2))),
    )


@settings(deadline=None)
@given(manifests())
def test_every_valid_manifest_survives_the_round_trip(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


def containers(data: Any) -> list[Any]:
    """Return every object and list inside `data`, itself first."""
    if not isinstance(data, dict | list):
        return []
    values = list(data.values()) if isinstance(data, dict) else data
    return [data, *(inner for value in values for inner in containers(value))]


def mutate(data: Any, draw: st.DrawFn) -> None:
    """Drop, replace or add one value somewhere in `data`."""
    place = draw(st.sampled_from(containers(data)))
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    action = draw(st.sampled_from(["drop", "replace", "add"] if keys else ["add"]))
    wild = json_data | st.sampled_from([float("nan"), float("inf"), -1, 10**400, "../x", "C:\\x", "\ud800", "\x00"])
    if action == "drop":
        del place[draw(st.sampled_from(keys))]
    elif action == "replace":
        place[draw(st.sampled_from(keys))] = draw(wild)
    elif isinstance(place, dict):
        place[draw(st.text(max_size=5))] = draw(wild)
    else:
        place.append(draw(wild))


@settings(deadline=None)
@given(st.data())
def test_a_changed_manifest_is_refused_or_is_a_valid_one_and_never_crashes(data: st.DataObject) -> None:
    changed = json.loads(toy_manifest().to_json())
    for _ in range(data.draw(st.integers(1, 2))):
        mutate(changed, data.draw)
    try:
        manifest = Manifest.from_json(json.dumps(changed))
    except BundleError as error:
        assert "\n" not in str(error)
    else:
        # Nothing was dropped or bent, but that a manifest of an older format became one of today's.
        if changed["format_version"] < 5 and "drafter" in changed:
            changed["draft_model"] = changed.pop("drafter")
        added = {"draft_model": None, "graph": "skipstone", "long_rope_from": None, "exact": True, "check": None}
        added |= {"adapters": {}, "draft_head": None, "stop_sources": {}, "sampling": {}, "rotaries": []}
        added |= {"variants": {}, "other_caches": {}, "cache_type": "float32", "experts": None}
        added |= {"target": "ort", "buckets": None}
        if isinstance(recipe := changed.get("recipe"), dict) and changed["format_version"] < 9:
            added["target"] = recipe.get("target", "ort")
        for entry in changed["files"].values():
            entry.setdefault("blocks", "")
        assert json.loads(manifest.to_json()) == {**added, **changed, "format_version": 10}


@settings(deadline=None)
@given(st.text())
def test_any_text_is_refused_without_another_error(text: str) -> None:
    with pytest.raises(BundleError):
        Manifest.from_json(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "[]", "null", '"x"', "\ufeff{}"])
def test_hostile_text_is_refused_without_another_error(text: str) -> None:
    with pytest.raises(BundleError):
        Manifest.from_json(text)


def with_value(path: list[Any], value: object) -> str:
    """Return the toy's text with the value at `path` changed."""
    data = json.loads(toy_manifest().to_json())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["stages", 1, "file"], 3, "stages[1].file: a string is wanted, found 3"),
        (["stages", 1], None, "stages[1]: an object is wanted, found null"),
        (["stages", 0, "embeds"], 1, "stages[0].embeds: true or false is wanted, found 1"),
        (["context_length"], True, "context_length: a whole number is wanted, found true"),
        (["dimensions", "head_size"], 4.0, "dimensions.head_size: a whole number is wanted, found 4.0"),
        (["dimensions", "head_size"], 0, "dimensions: head_size must be at least 1, found 0"),
        (["sampling", "top_p"], "1", "sampling['top_p']: a number is wanted, found \"1\""),
        (["exits"], {}, "exits: a list is wanted, found an object"),
        (["files"], [], "files: an object is wanted, found a list"),
        (["files", "a.txt"], {"size": 1}, "files['a.txt'].sha256 is missing"),
        (["extra"], 1, "the manifest has an unknown field 'extra'"),
        (["stages", 0, "extra"], 1, "stages[0] has an unknown field 'extra'"),
    ],
)
def test_the_message_names_the_field(path: list[Any], value: object, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(with_value(path, value))
    assert str(caught.value) == message


def test_every_field_must_be_in_the_text_even_one_with_a_default() -> None:
    for name in json.loads(toy_manifest().to_json()):
        data = json.loads(toy_manifest().to_json())
        del data[name]
        with pytest.raises(BundleError, match=f"^{name} is missing$"):
            Manifest.from_json(json.dumps(data))


def test_a_field_that_stands_twice_is_refused() -> None:
    with pytest.raises(BundleError, match="'family' stands twice"):
        Manifest.from_json(toy_manifest().to_json().replace("{", '{"family": "gpt",', 1))


def test_a_newer_format_is_named_before_anything_else_in_the_file_is_judged() -> None:
    with pytest.raises(BundleError, match=r"bundle format 11 is newer than this skipstone \S+ reads \(10\): upgrade"):
        Manifest.from_json('{"format_version": 11, "unheard": []}')


@pytest.mark.parametrize(
    ("version", "unknown"),
    [
        (1, ("draft_model", "graph", "long_rope_from", "exact", "check", "adapters", "draft_head")),
        (2, ("graph", "long_rope_from", "exact", "check", "adapters", "draft_head")),
        (3, ("adapters", "draft_head")),
        (4, ()),
        (5, ()),
        (6, ()),
        (7, ()),
        (8, ()),
        (9, ()),
    ],
)
def test_a_manifest_of_an_older_format_is_read_as_one_without_what_came_later(
    version: int, unknown: tuple[str, ...]
) -> None:
    data = json.loads(with_value(["format_version"], version))
    if version < 8:
        with pytest.raises(BundleError, match=f"format_version must be 10, found {version}"):
            Manifest.from_json(json.dumps(data))
    later = () if version > 5 else ("stop_sources", "sampling", "rotaries")
    later += () if version > 6 else ("variants", "other_caches", "cache_type", "experts")
    later += () if version > 8 else ("target", "buckets")
    for entry in data["files"].values():
        del entry["blocks"]
    for field in (*unknown, *later):
        del data[field]
    for layer in data["cache"]:
        if version < 8:
            del layer["ring"]
        if version < 7:
            layer |= {"k_scale": None, "v_scale": None}
    if 1 < version < 5:
        data["drafter"] = data.pop("draft_model")
    assert Manifest.from_json(json.dumps(data)) == toy_manifest()


def test_an_older_cache_with_scales_is_refused_as_no_graph_reads_them() -> None:
    data = json.loads(toy_manifest().to_json())
    for field in ("variants", "other_caches", "cache_type", "experts", "target", "buckets"):
        del data[field]
    data["cache"][1] |= {"k_scale": 0.5, "v_scale": None}
    with pytest.raises(BundleError, match=r"cache\[1\] has an unknown field 'k_scale'"):
        Manifest.from_json(json.dumps(data | {"format_version": 6}))


def test_a_number_may_be_written_as_a_whole_one() -> None:
    top_p = Manifest.from_json(with_value(["sampling", "top_p"], 1)).sampling["top_p"]
    assert top_p == 1.0
    assert type(top_p) is float


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "C:a", "a\nb", "\x00"]
)
def test_a_file_name_that_leads_out_of_the_bundle_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match="not a file name inside the bundle"):
        replace(toy_manifest(), files={**toy_manifest().files, name: FileEntry(size=1, sha256="0" * 64)})
    with pytest.raises(BundleError, match="not a file name inside the bundle"):
        StageEntry(file=name, first_layer=0, end_layer=1, embeds=True, ends_in_logits=True)


STAGES = toy_manifest().stages
FLOAT = toy_manifest().cache[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 0}, "format_version"),
        ({"context_length": 0}, "context_length"),
        ({"stages": ()}, "stages is empty"),
        ({"stages": STAGES[1:]}, "starts at layer 1, 0 wanted"),
        ({"stages": (STAGES[0], replace(STAGES[1], first_layer=2))}, "starts at layer 2, 1 wanted"),
        ({"stages": STAGES[:1], "exits": ()}, "stages end after 1 layers, 3 wanted"),
        ({"stages": (STAGES[0], replace(STAGES[1], end_layer=4))}, "stages end after 4 layers, 3 wanted"),
        ({"stages": (replace(STAGES[0], embeds=False), STAGES[1])}, r"stages\[0\].embeds"),
        ({"stages": (STAGES[0], replace(STAGES[1], embeds=True))}, r"stages\[1\].embeds"),
        ({"stages": (replace(STAGES[0], ends_in_logits=True), STAGES[1])}, "last stage only"),
        ({"stages": (STAGES[0], replace(STAGES[1], ends_in_logits=True))}, "both or neither"),
        ({"head": None}, "both or neither"),
        ({"head": "other.onnx"}, "other.onnx is missing"),
        ({"stages": (replace(STAGES[0], file="other.onnx"), STAGES[1])}, "other.onnx is missing"),
        ({"exits": (2,)}, "2 is not the end of a stage"),
        ({"exits": (3,)}, "3 is not the end of a stage"),
        ({"exits": (0,)}, "0 is not the end of a stage"),
        ({"exits": (1, 1)}, "stands twice"),
        ({"head": None, "stages": (STAGES[0], replace(STAGES[1], ends_in_logits=True))}, "exits need a head"),
        ({"cache": (FLOAT,) * 4}, "cache has 4 layers, 1 to 3 wanted"),
        ({"cache": ()}, "cache has 0 layers, 1 to 3 wanted"),
        ({"graph": "torch"}, "graph must be one of skipstone, optimum, found 'torch'"),
        ({"long_rope_from": 0}, "long_rope_from must be at least 1, found 0"),
        (
            {"rotaries": (RotaryEntry(frequencies=(1.0,) * 3),)},
            r"rotaries\[0\] turns 3 pairs of channels, a head has 2",
        ),
        ({"check": {"kl": float("inf")}}, "check is not JSON"),
        ({"bos_id": 100}, "bos_id: 100 is outside the vocabulary of 100"),
        ({"stop_ids": (5, -1)}, "stop_ids: -1"),
        ({"special_ids": (100,)}, "special_ids: 100"),
        ({"recipe": {"bits": float("nan")}}, "recipe is not JSON"),
        ({"recipe": {"bits": object()}}, "recipe is not JSON"),
        ({"draft_model": "drafter"}, "drafter/skipstone.json is missing"),
        ({"draft_model": "../drafter"}, "not a file name inside the bundle"),
        ({"files": {**toy_manifest().files, "skipstone.json": FileEntry(size=1, sha256="0" * 64)}}, "its own hash"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        replace(toy_manifest(), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "int3"},
        {"num_heads": 0},
        {"window": 0},
    ],
)
def test_a_cache_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        replace(FLOAT, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frequencies": ()}, "frequencies is empty"),
        ({"frequencies": (1.0, float("nan"))}, "must be finite"),
        ({"magnitude": float("inf")}, "must be finite"),
        ({"long_frequencies": (1.0,)}, "must have one length, found 1 and 2"),
    ],
)
def test_a_way_to_turn_positions_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        replace(RotaryEntry(frequencies=(1.0, 0.5), long_frequencies=(1.0, 0.25)), **changes)


@pytest.mark.parametrize(
    "changes", [{"size": -1}, {"sha256": "ab"}, {"sha256": "AB" * 32}, {"sha256": "ab" * 32 + "\n"}]
)
def test_a_file_entry_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        replace(FileEntry(size=0, sha256="ab" * 32), **changes)


def test_one_stage_that_ends_in_logits_needs_no_head() -> None:
    stage = StageEntry(file="stage-00.onnx", first_layer=0, end_layer=3, embeds=True, ends_in_logits=True)
    manifest = replace(toy_manifest(), stages=(stage,), head=None, exits=())
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_sizes_are_sums_over_files_and_layers() -> None:
    assert toy_manifest().total_bytes == 30
    assert toy_manifest().cache_bytes_per_token == 2 * 2 * 4 * (4 + 1 + 2)
    assert toy_manifest().cache_bytes(100) == 100 * 2 * 2 * 4 * (4 + 1 + 2)


def test_a_layer_that_holds_the_last_rows_takes_no_more_for_longer_texts() -> None:
    first, *others = toy_manifest().cache
    windowed = replace(toy_manifest(), cache=(first, *(replace(layer, window=10, ring=4) for layer in others)))
    rows_at = {length: windowed.cache[1].num_rows(length) for length in (15, 16, 17, 20, 1000)}
    assert rows_at == {15: 15, 16: 16, 17: 20, 20: 20, 1000: 20}, "a window of 10 is three times 4, and one is behind"
    assert windowed.cache_bytes(1000) == 2 * 2 * 4 * (1000 * 4 + 20 * (1 + 2))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 400), st.integers(0, 40))
def test_a_ring_holds_the_window_of_each_row_and_as_many_behind_it_as_leave_at_a_time(
    window: int, unit: int, place: int, back: int
) -> None:
    layout = RingLayout(window, unit)
    start, turn = layout.start(place), layout.next_turn(place)
    assert max(0, place - layout.num_working) < start + 1 <= max(0, place - window) + 1 and start % unit == 0
    assert layout.start(turn - 1) == start and layout.start(turn) == start + unit
    if back <= unit:  # then rows leave at most once between the two places
        assert layout.start(max(0, place - back)) >= start - unit


def test_a_ring_without_a_window_is_refused() -> None:
    with pytest.raises(BundleError, match="ring goes with a window, found none"):
        replace(FLOAT, ring=4)


def test_the_files_of_the_drafter_count_in_the_whole() -> None:
    size = FileEntry(size=7, sha256="ab" * 32)
    drafter = {"drafter/skipstone.json": size, "drafter/weights.bin": size, "drafters.txt": size}
    manifest = replace(toy_manifest(), files={**toy_manifest().files, **drafter}, draft_model="drafter")
    assert (manifest.draft_model_bytes, manifest.total_bytes) == (14, 51)
    assert toy_manifest().draft_model_bytes == 0


def test_what_an_older_bundle_was_made_for_stands_in_its_recipe() -> None:
    data = json.loads(toy_manifest().to_json())
    del data["target"], data["buckets"]
    for said, target in (({}, "ort"), ({"target": "plain"}, "plain")):
        older = data | {"format_version": 8, "recipe": data["recipe"] | said}
        assert Manifest.from_json(json.dumps(older)).target == target


@pytest.mark.parametrize("rows", [[], [0, 4], [4, 1], [1, 1]])
def test_buckets_are_sizes_that_rise(rows: list[int]) -> None:
    data = json.loads(toy_manifest().to_json())
    with pytest.raises(BundleError, match=r"buckets\.rows must be numbers that rise"):
        Manifest.from_json(json.dumps(data | {"buckets": {"rows": rows, "contexts": [64]}}))


def test_a_bucket_without_graphs_is_refused() -> None:
    data = json.loads(toy_manifest().to_json())
    with pytest.raises(BundleError, match="rows-1-context-64 is missing"):
        Manifest.from_json(json.dumps(data | {"buckets": {"rows": [1], "contexts": [64]}}))


def test_a_recipe_without_a_name_is_of_no_precision() -> None:
    assert toy_manifest().precision == toy_manifest().recipe.get("name", "")
    assert Manifest.from_json(with_value(["recipe"], {})).precision == ""
