"""Variants of graphs: how they are called, which file stands for which, and what a manifest may say of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_manifest import toy_manifest

from skipstone.errors import BundleError
from skipstone.runtime.bundle import (
    FileEntry,
    LayerCache,
    Manifest,
    graph_of,
    kind_and_cache,
    variant_file,
    variant_name,
)

INT8 = tuple(replace(layer, dtype="int8") for layer in toy_manifest().cache)
VARIANTS = {
    "sparse": {"stage-01.onnx": "stage-01.sparse.onnx"},
    "cache-int8": {"stage-00.onnx": "stage-00.cache-int8.onnx", "stage-01.onnx": "stage-01.cache-int8.onnx"},
    "sparse+cache-int8": {"stage-01.onnx": "stage-01.sparse+cache-int8.onnx"},
}
FILES = {file for files in VARIANTS.values() for file in files.values()}


def with_variants(**changes: Any) -> Manifest:
    """Return the toy with a kind of variant and two types of cache."""
    files = toy_manifest().files | {name: FileEntry(size=1, sha256="0" * 64) for name in FILES}
    parts: dict[str, Any] = {"variants": VARIANTS, "other_caches": {"int8": INT8}, "files": files}
    return replace(toy_manifest(), **(parts | changes))


@pytest.mark.parametrize(
    ("kind", "cache_type", "name"),
    [
        ("sparse", "float32", "sparse"),
        ("", "int8", "cache-int8"),
        ("sparse-50", "int8", "sparse-50+cache-int8"),
    ],
)
def test_a_name_is_the_kind_and_the_type_of_cache(kind: str, cache_type: str, name: str) -> None:
    assert variant_name(kind, cache_type) == name
    assert kind_and_cache(name) == (kind, cache_type)
    assert variant_file("stage-00.onnx", name) == f"stage-00.{name}.onnx"


def test_the_plain_graphs_have_no_name_and_keep_their_files() -> None:
    assert variant_name("", "float32") == ""
    assert variant_file("stage-00.onnx", "") == "stage-00.onnx"


@pytest.mark.parametrize(
    "name", ["", "+", "sparse+", "cache-", "cache-float32", "cache-int8+sparse", "a/b", "a+b", "A"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="no name of a variant"):
        kind_and_cache(name)


def test_a_graph_without_one_of_its_own_is_that_of_the_cache_or_the_plain_one() -> None:
    def file(plain: str, kind: str, cache_type: str) -> str:
        return graph_of(plain, VARIANTS, kind=kind, cache_type=cache_type)

    assert file("stage-01.onnx", "sparse", "float32") == "stage-01.sparse.onnx"
    assert file("stage-00.onnx", "sparse", "float32") == "stage-00.onnx"
    assert file("stage-01.onnx", "sparse", "int8") == "stage-01.sparse+cache-int8.onnx"
    assert file("stage-00.onnx", "sparse", "int8") == "stage-00.cache-int8.onnx"
    assert file("head.onnx", "sparse", "int8") == "head.onnx"


def test_a_manifest_with_variants_survives_the_round_trip() -> None:
    manifest = with_variants(cache_type="int8")
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.cache_types == ("float32", "int8")
    assert manifest.variant_kinds == {"sparse"}
    assert manifest.layout("int8") == INT8
    assert manifest.layout("float32") == manifest.cache


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache_type": "int4"}, "cache_type must be one of float32, int8, found 'int4'"),
        ({"other_caches": {}}, "variants: cache-int8 is for no cache of float32"),
        ({"other_caches": {"int8": INT8[:2]}}, r"other_caches\['int8'\] has 2 layers, 3 wanted"),
        ({"other_caches": {"int8": INT8, "float32": INT8}}, "float32 is the type of `cache` itself"),
        ({"variants": VARIANTS | {"a+b": {}}}, "'a.b' is no name of a variant"),
        ({"variants": {name: VARIANTS[name] for name in ("sparse", "cache-int8")}}, "sparse.cache-int8 is missing"),
        ({"variants": VARIANTS | {"sparse": {"tokenizer.json": "head.onnx"}}}, "'tokenizer.json' is no graph"),
        ({"variants": VARIANTS | {"sparse": {"head.onnx": "new.onnx"}}}, "files: new.onnx is missing"),
    ],
)
def test_variants_that_do_not_fit_the_bundle_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        with_variants(**changes)


def test_a_bundle_of_one_cache_and_no_variant_says_so() -> None:
    manifest = toy_manifest()
    assert manifest.cache_types == ("float32",)
    assert manifest.variant_kinds == frozenset()
    assert isinstance(manifest.layout("float32")[0], LayerCache)
