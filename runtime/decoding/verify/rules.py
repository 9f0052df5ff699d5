"""The rules by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from skipstone.errors import ConfigError
from skipstone.runtime.decoding.drafter import Accept
from skipstone.runtime.decoding.verify.kseq import k_seq
from skipstone.runtime.decoding.verify.match import match
from skipstone.runtime.decoding.verify.rejection import reject
from skipstone.runtime.sampling import Sampler

__all__ = ["RULES", "rule_named"]

_RULES: Mapping[str, Callable[[Sampler, Sequence[int]], Accept]] = MappingProxyType(
    {"match": match, "rejection": reject, "k-seq": k_seq}
)
RULES = tuple(_RULES)


def rule_named(name: str, sampler: Sampler, history: Sequence[int]) -> Accept:
    """Return the rule `name` for one text, whose live list of tokens is `history`. Raises: ConfigError."""
    if name not in RULES:
        raise ConfigError(f"rule {name!r} is not known; known are {', '.join(RULES)}")
    return _RULES[name](sampler, history)
