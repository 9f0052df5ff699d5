"""Gemma 3n, the text model: several streams, an embedding for every layer, and caches that later layers share."""

from __future__ import annotations

from dataclasses import replace

from skipstone.errors import CheckpointError
from skipstone.exporters.families.altup import AltUp
from skipstone.exporters.families.family import Config, names_of
from skipstone.exporters.families.gemma import GEMMA2_NAMES, GEMMA3_TEXT
from skipstone.exporters.families.llama import QK_NORM_NAMES

__all__ = ["GEMMA3N_FAMILIES"]

GEMMA3N_NAMES = {
    **GEMMA2_NAMES,
    **QK_NORM_NAMES,
    **names_of(
        "{prefix}{tensor}.{kind}",
        per_layer_embedding="embed_tokens_per_layer",
        per_layer_projection="per_layer_model_projection",
        per_layer_norm="per_layer_projection_norm",
        into_stream="altup_projections.{stream}",
        from_stream="altup_unembed_projections.{stream}",
    ),
    **names_of(
        "{prefix}layers.{layer}.{tensor}.{kind}",
        stream_norm="altup.router_norm",
        stream_router="altup.modality_router",
        prediction="altup.prediction_coefs",
        correction="altup.correction_coefs",
        laurel_left="laurel.linear_left",
        laurel_right="laurel.linear_right",
        laurel_norm="laurel.post_laurel_norm",
        per_layer_gate="per_layer_input_gate",
        per_layer_out="per_layer_projection",
        per_layer_out_norm="post_per_layer_input_norm",
    ),
    "stream_scale": "{prefix}layers.{layer}.altup.correct_output_scale",
}
GEMMA3N_DEFAULTS = {
    "vocab_size": 262400,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "sliding_window": 512,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
    "altup_active_idx": 0,
    "altup_correct_scale": True,
    "altup_num_inputs": 4,
    "num_kv_shared_layers": 15,
    "laurel_rank": 64,
}


def _layer_types(config: Config) -> list[str]:
    """Return which layers see everything where config.json does not say: every fifth."""
    numbers = range(1, config["num_hidden_layers"] + 1)
    return ["sliding_attention" if number % 5 else "full_attention" for number in numbers]


def _altup(config: Config) -> AltUp:
    return AltUp(
        num_streams=config["altup_num_inputs"],
        active=config["altup_active_idx"],
        scaled=bool(config["altup_correct_scale"]),
        laurel_rank=config["laurel_rank"],
        per_layer_size=config["hidden_size_per_layer_input"],
        per_layer_vocab_size=config["vocab_size_per_layer_input"],
        sparsities=_sparsities(config),
        cache_owners=_cache_owners(config["layer_types"], config["num_kv_shared_layers"]),
    )


def _sparsities(config: Config) -> tuple[float, ...]:
    """Return the share of closed gates per layer; in a deep model that states none, it is 0.95 for the first ten."""
    num_layers, sparsities = config["num_hidden_layers"], config.get("activation_sparsity_pattern")
    if sparsities is None:
        num_sparse = 10 if num_layers > 10 else 0
        sparsities = [0.95] * num_sparse + [0.0] * (num_layers - num_sparse)
    if not isinstance(sparsities, list) or len(sparsities) != num_layers:
        raise CheckpointError(
            f"config.json: activation_sparsity_pattern must have a number for each of {num_layers} layers, "
            f"found {sparsities!r}"
        )
    return tuple(float(sparsity) for sparsity in sparsities)


def _cache_owners(layer_types: list[str], num_shared: int) -> tuple[int, ...]:
    """Return for each layer the one whose cache it reads: itself or, for the last ones, the last owner of its type."""
    num_layers = len(layer_types)
    if type(num_shared) is not int or not 0 <= num_shared < num_layers:
        raise CheckpointError(f"config.json: num_kv_shared_layers must lie below {num_layers}, found {num_shared!r}")
    num_owners = num_layers - num_shared
    newest = {kind: layer for layer, kind in enumerate(layer_types[:num_owners])}
    for kind in layer_types[num_owners:]:
        if kind not in newest:
            raise CheckpointError(f"config.json: num_kv_shared_layers = {num_shared} leaves no cache for {kind}")
    return (*range(num_owners), *(newest[kind] for kind in layer_types[num_owners:]))


GEMMA3N_TEXT = replace(
    GEMMA3_TEXT,
    model_type="gemma3n_text",
    defaults=GEMMA3N_DEFAULTS,
    names=GEMMA3N_NAMES,
    layer_types=_layer_types,
    norm_offset=0.0,
    attention_scale=lambda config, layer: 1.0,
    altup=_altup,
)
GEMMA3N = replace(
    GEMMA3N_TEXT,
    model_type="gemma3n",
    nested="text_config",
    prefixes=("model.language_model.", "language_model.model.", "model.", "language_model."),
)
GEMMA3N_FAMILIES = (GEMMA3N_TEXT, GEMMA3N)
