"""How a GGUF file says that rotary positions are stretched: in settings, or in tensors with a factor for each pair."""

from __future__ import annotations

import math
from typing import Any, Final

from skipstone.errors import UnsupportedModel
from skipstone.exporters.checkpoints.gguf.settings import Settings

__all__ = ["FACTOR_TENSORS", "read_rope"]

FACTOR_TENSORS: Final = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
_DIVISORS, _SHORT, _LONG = FACTOR_TENSORS


def read_rope(settings: Settings, head_size: int) -> dict[str, Any]:
    """What config.json would hold as `rope_parameters`. Raises: UnsupportedModel for a scaling that we do not know."""
    rope: dict[str, Any] = {"rope_theta": settings.get("rope.freq_base", 10000.0)}
    turning = settings.size("rope.dimension_count", head_size)
    share = turning / head_size
    rope["partial_rotary_factor"] = share if int(share * head_size) == turning else math.nextafter(share, 1.0)
    scaling = _scaling(settings)
    if _LONG in settings.file.tensors:
        factors = {"short_factor": settings.numbers(_SHORT), "long_factor": settings.numbers(_LONG)}
        magnitude = settings.get("rope.scaling.attn_factor", 1.0)
        return rope | scaling | {"rope_type": "longrope", "attention_factor": magnitude} | factors
    if _DIVISORS in settings.file.tensors:
        if scaling["rope_type"] != "default":
            raise UnsupportedModel(
                f"{settings.file.path}: {_DIVISORS} beside rope type '{scaling['rope_type']}' is not supported"
            )
        return rope | {"rope_type": "factors", "factors": settings.numbers(_DIVISORS)}
    return rope | scaling


def _scaling(settings: Settings) -> dict[str, Any]:
    factor = settings.get("rope.scaling.factor", settings.get("rope.scale_linear", 0.0)) or 1.0
    kind = settings.get("rope.scaling.type", "linear")
    original = {}
    if settings.raw("rope.scaling.original_context_length") is not None:
        original["original_max_position_embeddings"] = settings.size("rope.scaling.original_context_length")
    has_factors = _LONG in settings.file.tensors
    if kind == "none" or (kind == "linear" and factor == 1.0) or (kind == "longrope" and has_factors):
        return {"rope_type": "default"} | original
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise UnsupportedModel(f"{settings.file.path}: rope scaling '{kind}' is not known; known are linear, yarn")
    settings.require("rope.scaling.yarn_ext_factor", (1.0,))
    names = {"beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow"}
    stated = {name: value for name, key in names.items() if (value := settings.get(key, 0.0))}
    grown = settings.get("rope.scaling.attn_factor", 1.0) * settings.get("rope.scaling.yarn_attn_factor", 1.0)
    magnitude = grown * (1 + 0.1 * math.log(max(factor, 1.0)))
    return {"rope_type": "yarn", "factor": factor, "attention_factor": magnitude} | original | stated
