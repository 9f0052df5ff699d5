"""What a provider itself says of a graph, where it is built into onnxruntime or installed as a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

import onnxruntime as ort
from onnx import AttributeProto, GraphProto, ModelProto

from skipstone.devices import Door, provider_devices
from skipstone.errors import DeviceError
from skipstone.placement.rules import Rules

__all__ = ["CPU_PROVIDER", "ProviderRefusedError", "has_provider", "nodes_taken"]

CPU_PROVIDER: Final = "CPUExecutionProvider"


class ProviderRefusedError(Exception):
    """The provider is here and does not open the graph; the words are those of onnxruntime."""


def has_provider(door: Door) -> bool:
    """Return whether the provider of a door can be asked here."""
    return bool(_plugged(door)) or door.provider in ort.get_available_providers()


def nodes_taken(model: ModelProto, folder: Path, door: Door, rules: Rules | None) -> frozenset[int]:
    """Return the places of the nodes that the provider takes, counted as `CheckedGraph` does.

    The graph is opened as it is, its weights from `folder`; where that fails with what is constant in it computed
    first. The CPU provider takes all nodes of a graph that opens. Raises: ProviderRefusedError.
    """
    named = _with_names(model)
    try:
        session = _open(named, folder, door, rules, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    except Exception:  # onnxruntime's errors have no base of their own
        try:
            session = _open(named, folder, door, rules, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        except Exception as error:
            raise ProviderRefusedError(_words(error)) from error
    if door.provider == CPU_PROVIDER:
        return frozenset(range(_number_nodes(named.graph, 0)))
    parts = session.get_provider_graph_assignment_info()
    names = (node.name for part in parts if part.ep_name == door.provider for node in part.get_nodes())
    return frozenset(int(name) for name in names if name.isdigit())


def _open(
    model: ModelProto, folder: Path, door: Door, rules: Rules | None, level: ort.GraphOptimizationLevel
) -> ort.InferenceSession:
    options, hardware = _options(folder, level), _plugged(door)
    if hardware:
        options.add_provider_for_devices(hardware[:1], _plug_in_options(door, rules))
    builtin = None if hardware else [door.provider]
    return ort.InferenceSession(model.SerializeToString(), options, providers=builtin)


def _with_names(model: ModelProto) -> ModelProto:
    """Return a copy whose nodes are named by their places."""
    named = ModelProto()
    named.CopyFrom(model)
    _number_nodes(named.graph, 0)
    return named


def _number_nodes(graph: GraphProto, first: int) -> int:
    place = first
    for node in graph.node:
        node.name, place = str(place), place + 1
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                place = _number_nodes(attribute.g, place)
    return place


def _plugged(door: Door) -> list[ort.OrtEpDevice]:
    """Return what the provider of a plug-in can run on here: nothing where it is no plug-in or not installed."""
    try:
        return list(provider_devices(door)) if door.package is not None else []
    except DeviceError:
        return []


def _options(folder: Path, level: ort.GraphOptimizationLevel) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4  # what it has to say comes as an error
    entries = {
        "session.record_ep_graph_assignment_info": "1",
        "session.model_external_initializers_file_folder_path": str(folder),
        "session.disable_prepacking": "1",
    }
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    return options


def _plug_in_options(door: Door, rules: Rules | None) -> Mapping[str, str]:
    """Return the options that a plug-in wants: what functions of its package return, and words."""
    wanted = rules.plug_in_options if rules is not None else {}
    package = import_module(door.package) if door.package else None
    return {name: str(getattr(package, word)()) if hasattr(package, word) else word for name, word in wanted.items()}


def _words(error: Exception) -> str:
    """Return the words of onnxruntime's error, without its number, in one line."""
    words = " ".join(str(error).split())
    return words.rpartition(" : ")[2] if words.startswith("[ONNXRuntimeError]") else words
