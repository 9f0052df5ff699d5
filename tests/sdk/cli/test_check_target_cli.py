"""skipstone check-target, as a person sees it."""

from __future__ import annotations

import json

from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint


def test_the_table_names_shares_reasons_and_what_to_change(
    cli: CommandLine, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(make_checkpoint(), precision="int4")
    done = cli("check-target", bundle, "nnapi")
    assert done.code == 0
    for words in (
        "answer of      table of NNAPI, onnxruntime",
        " on nnapi, 0 %;",
        "multiply-adds  0 % of ",
        "(1 row at 256 tokens)",
        "not an operator of NNAPI",
        "com.microsoft:MatMulNBits",
        "dynamic shapes",
        "to change",
    ):
        assert words in done.out
    assert "node " not in done.out, "nodes are shown with --nodes"


def test_every_node_is_shown_where_asked(
    cli: CommandLine, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(make_checkpoint(), precision="int4")
    shown = cli("check-target", bundle, "android-cpu", "--nodes").out
    told = json.loads(cli("check-target", bundle, "android-cpu", "--json").out)
    (graph,) = told["graphs"]
    assert shown.count(" taken\n") == graph["nodes_taken"] == graph["nodes"] - graph["nodes_at_load"]
    assert {node["place"] for node in graph["each_node"]} == {"load", "target"}
    assert told["work_share"] == 1 and told["to_change"] == []


def test_json_adds_up_and_names_its_sources(
    cli: CommandLine, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(make_checkpoint(), precision="int4")
    told = json.loads(cli("check-target", bundle, "coreml", "--rows", "4", "--context", "32", "--json").out)
    (graph,) = told["graphs"]
    elsewhere = sum(group["nodes"] for group in graph["elsewhere"])
    assert graph["nodes_taken"] + elsewhere + graph["nodes_at_load"] == graph["nodes"] == len(graph["each_node"])
    assert (graph["rows"], graph["context"]) == (4, 32)
    assert any("mlprogram" in source for source in told["sources"])


def test_an_unknown_target_is_one_line(
    cli: CommandLine, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    done = cli("check-target", make_bundle(make_checkpoint(), precision="int4"), "npu")
    assert done.code == 2
    assert done.err.startswith("skipstone: target 'npu' is not known; known are android-cpu, ")


def test_an_empty_target_is_said_and_letters_may_be_large(
    cli: CommandLine, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(make_checkpoint(), precision="int4")
    assert cli("check-target", bundle, " ").err.startswith("skipstone: no target is named; known are android-cpu, ")
    assert cli("check-target", bundle, "CoreML").out == cli("check-target", bundle, "coreml").out


def test_a_bundled_model_is_exported_again_by_its_name(cli: CommandLine) -> None:
    assert "skipstone export pebble -o NEW --target " in cli("check-target", "pebble", "qnn").out
