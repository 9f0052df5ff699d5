"""config.json and the names of the weights to the description that a graph is built from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.families.architecture import ACTIVATIONS, Architecture
from skipstone.exporters.families.experts import Experts
from skipstone.exporters.families.family import Config, Family, chosen
from skipstone.exporters.families.registry import registered_families
from skipstone.exporters.families.rotary import Rotary, read_rotary
from skipstone.runtime.bundle import Dimensions

__all__ = ["first_names", "read_architecture"]

FULL, SLIDING = "full_attention", "sliding_attention"


def read_architecture(config: Config, names: Collection[str] = ()) -> Architecture:
    """Return what config.json describes, its tensors called as in `names`, those that the checkpoint holds.

    Raises: UnsupportedModel for an unknown family or option, by name; CheckpointError for a missing or odd value.
    """
    try:
        return _read(_family(config), config, names)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json has a value that cannot be: {type(error).__name__}: {error}") from error


def _read(family: Family, config: Config, names: Collection[str]) -> Architecture:
    config = _complete(family, config)
    _refuse(family, config)
    if names and _positive(config, "num_hidden_layers") > len(names):
        found = config["num_hidden_layers"]
        raise CheckpointError(f"config.json: {found} layers, the checkpoint holds {len(names)} tensors in all")
    dimensions = _dimensions(family, config)
    layer_types, our_names = _layer_types(family, config), _names(family, config, names)
    return Architecture(
        family=family.model_type,
        dimensions=dimensions,
        context_length=_positive(config, "max_position_embeddings"),
        names=our_names,
        biases=_biases(family, config, our_names),
        tied_embedding=bool(config.get("tie_word_embeddings", False)),
        windows=_windows(family, config, layer_types),
        rotaries=_rotaries(family, config, dimensions.head_size, layer_types),
        ffn_widths=_widths(family, config),
        norm=family.norm,
        norm_epsilon=float(chosen(family.norm_epsilon, config)),
        norm_offset=family.norm_offset,
        head_norm=chosen(family.head_norm, config),
        activation=_activation(family, config),
        parallel=bool(chosen(family.parallel, config)),
        grouped=bool(chosen(family.grouped, config)),
        transposed=family.transposed,
        attention_scales=_attention_scales(family, config, dimensions),
        attention_cap=_number(chosen(family.attention_cap, config)),
        qkv_clip=_number(chosen(family.qkv_clip, config)),
        embedding_scale=float(chosen(family.embedding_scale, config)),
        residual_scale=float(chosen(family.residual_scale, config)),
        logit_scale=float(chosen(family.logit_scale, config)),
        logit_cap=_number(chosen(family.logit_cap, config)),
        experts=_experts(family, config, names),
        altup=family.altup({**config, "layer_types": layer_types}) if family.altup else None,
    )


def _family(config: Config) -> Family:
    model_type, families = config.get("model_type"), registered_families()
    if not isinstance(model_type, str) or model_type not in families:
        known = ", ".join(sorted(families))
        raise UnsupportedModel(
            f"model_type {model_type!r} is not known; known are {known}; or let optimum export it: --via optimum"
        )
    return families[model_type]


def _complete(family: Family, config: Config) -> dict[str, Any]:
    """Return the settings of the text model in today's spelling, with what transformers takes for those not stated."""
    if family.nested is not None:
        inner = config.get(family.nested)
        if not isinstance(inner, Mapping):
            raise CheckpointError(f"config.json: {family.nested} must hold the settings of the text model")
        tied = {key: value for key, value in config.items() if key == "tie_word_embeddings"}
        config = {**inner, **tied}
    renamed = {new: config[old] for old, new in family.aliases.items() if old in config and new not in config}
    return {**family.defaults, **config, **renamed}


def _refuse(family: Family, config: Config) -> None:
    """Raise UnsupportedModel for an option under which the row is wrong."""
    refused = {**family.refused, "is_encoder_decoder": (False,)}
    if not family.partial_rotary:
        refused["partial_rotary_factor"] = (None, 1.0)
    stated = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {}), **config}
    for option, supported in refused.items():
        if option in stated and stated[option] not in supported:
            known = ", ".join(str(value) for value in supported)
            raise UnsupportedModel(f"{family.model_type}: {option} = {stated[option]!r} is not supported, only {known}")


def _positive(config: Config, key: str) -> int:
    return _require_positive(config.get(key), key)


def _require_positive(value: object, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json: {key} must be a positive whole number, found {value!r}")
    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _dimensions(family: Family, config: Config) -> Dimensions:
    hidden_size, num_heads = _positive(config, "hidden_size"), _positive(config, "num_attention_heads")
    num_kv_heads, head_size = chosen(family.num_kv_heads, config), chosen(family.head_size, config)
    num_kv_heads = num_heads if num_kv_heads is None else _require_positive(num_kv_heads, "num_key_value_heads")
    if num_heads % num_kv_heads:
        raise CheckpointError(f"config.json: {num_heads} attention heads cannot share {num_kv_heads} key-value heads")
    return Dimensions(
        vocab_size=_positive(config, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=max(_widths(family, config)),
        num_layers=_positive(config, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=hidden_size // num_heads if head_size is None else _require_positive(head_size, "head_dim"),
    )


def _widths(family: Family, config: Config) -> tuple[int, ...]:
    """Return the inner width of the FFN of each layer."""
    widths, num_layers = chosen(family.intermediate_size, config), _positive(config, "num_hidden_layers")
    if not isinstance(widths, list):
        return (_require_positive(widths, "intermediate_size"),) * num_layers
    if len(widths) != num_layers:
        raise CheckpointError(f"config.json: intermediate_size has {len(widths)} widths for {num_layers} layers")
    return tuple(_require_positive(width, "intermediate_size") for width in widths)


def _layer_types(family: Family, config: Config) -> list[str]:
    """Return for each layer whether it sees everything or a window."""
    num_layers = config["num_hidden_layers"]
    types = config.get("layer_types")
    if types is None:
        types = family.layer_types(config) if family.layer_types else [SLIDING] * num_layers
    if set(types) - {FULL, SLIDING} or len(types) != num_layers:
        raise UnsupportedModel(
            f"{family.model_type}: layer_types {sorted(set(types))} for {num_layers} layers is not supported"
        )
    return list(types)


def _windows(family: Family, config: Config, layer_types: list[str]) -> tuple[int | None, ...]:
    if not chosen(family.windowed, config) or config.get("sliding_window") is None:
        return (None,) * len(layer_types)
    window = _positive(config, "sliding_window")
    return tuple(window if kind == SLIDING else None for kind in layer_types)


def _rotaries(family: Family, config: Config, head_size: int, layer_types: list[str]) -> tuple[Rotary | None, ...]:
    if family.learned_positions:
        return (None,) * len(layer_types)
    kinds = {kind: _rotary(family, config, head_size, kind) for kind in dict.fromkeys(layer_types)}
    bare = family.without_rotary(config) if family.without_rotary else set()
    return tuple(None if layer in bare else kinds[kind] for layer, kind in enumerate(layer_types))


def _rotary(family: Family, config: Config, head_size: int, layer_type: str) -> Rotary:
    """Return the rotary of one type of layers.

    Where types have their own, an older config.json gives windows a base of theirs, and the scaling is not for them.
    """
    if family.rotary_by_type:
        parameters = dict(config.get("rope_parameters") or {})
        if layer_type == SLIDING and not isinstance(parameters.get(SLIDING), Mapping):
            config = {**config, "rope_scaling": None, "rope_parameters": None}
            config["rope_theta"] = config.get("rope_local_base_freq") or 1e4
        elif "rope_theta" not in config:
            config = {**config, "rope_theta": 1e6}
    return read_rotary(config, head_size, layer_type)


def _names(family: Family, config: Config, present: Collection[str]) -> dict[str, str]:
    """Return the checkpoint's names, with the first prefix under which it has the first norm."""
    names = {ours: theirs for ours, theirs in chosen(family.names, config).items() if theirs}
    fitting = [prefix for prefix in _prefixes(family) if _first_name(names, prefix) in present]
    prefix = (fitting or list(family.prefixes))[0]
    outer = prefix.removesuffix("model.") if prefix.endswith(".model.") else ""
    return {ours: theirs.replace("{prefix}", prefix).replace("{outer}", outer) for ours, theirs in names.items()}


def _prefixes(family: Family) -> list[str]:
    """Return what names may begin with; nothing where a model was saved from the class without a head."""
    return list(dict.fromkeys([*family.prefixes, ""]))


def _first_name(names: Mapping[str, str], prefix: str) -> str:
    """Return the name of the first norm of the first layer: every checkpoint has it, as numbers."""
    theirs = names.get("attention_norm") or names["attention_out_norm"]
    return theirs.replace("{prefix}", prefix).format(layer=0)


def first_names(config: Config) -> tuple[str, ...]:
    """Return what the first norm may be called in a checkpoint with these settings; nothing for an unknown family."""
    family = registered_families().get(str(config.get("model_type")))
    if family is None:
        return ()
    names = chosen(family.names, config)
    return tuple(_first_name(names, prefix) for prefix in _prefixes(family))


def _biases(family: Family, config: Config, names: Mapping[str, str]) -> frozenset[str]:
    present = [tensors for tensors, choice in family.biases.items() if chosen(choice, config)]
    return frozenset(tensor for tensors in present for tensor in tensors.split() if tensor in names)


def _activation(family: Family, config: Config) -> str:
    name = chosen(family.activation, config)
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModel(f"{family.model_type}: activation {name!r} is not supported, only {known}")
    return ACTIVATIONS[name]


def _attention_scales(family: Family, config: Config, dimensions: Dimensions) -> tuple[float, ...]:
    layers = range(dimensions.num_layers)
    if family.attention_scale is None:
        return (float(dimensions.head_size**-0.5),) * len(layers)
    return tuple(family.attention_scale(config, layer) for layer in layers)


def _experts(family: Family, config: Config, names: Collection[str]) -> Experts | None:
    """Return the experts of a model that has any: all layers of a mixture may be dense."""
    experts = family.experts(config) if family.experts else None
    if experts is not None and names and experts.num_experts > len(names):
        raise CheckpointError(f"config.json: {experts.num_experts} experts, the checkpoint holds {len(names)} tensors")
    return experts if experts is not None and any(experts.layers) else None
