"""How many experts of each layer are active at a share of all: as a bundle has it, or as a search found it better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import SPARSE, ExpertLevel, Manifest, Note
from skipstone.runtime.engine import Model, Part
from skipstone.runtime.methods.method import Need

__all__ = [
    "COMMAND",
    "EXPERTS",
    "ActiveLevel",
    "ActiveLevels",
    "active_note",
    "between",
    "least_counts",
    "level_for",
    "levels_of",
    "share_of",
    "sparse_part",
]

COMMAND = "`skipstone tune active BUNDLE --text FILE`"
EXPERTS = Need(
    lambda model: model.manifest.experts is not None,
    "runs some experts of each layer, and the bundle has none",
    "make one with `skipstone export CHECKPOINT -o OUT --experts auto`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveLevel:
    """How many experts of each layer run, those for all tokens among them: a `share` of all.

    `kl` is KL(all experts || these) in nats per token of a text that was read so; None where nobody measured it.
    """

    share: float
    counts: tuple[int, ...]
    kl: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or min(self.counts, default=0) < 1:
            raise ConfigError(
                f"a share of active experts lies above 0 and up to 1, with one for each layer; got {self}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveLevels:
    """What a search found along `num_tokens` tokens: levels by share, and the share that its budget allows."""

    num_tokens: int
    levels: tuple[ActiveLevel, ...]
    budget: str
    chosen: float | None


def active_note(manifest: Manifest) -> Note[ActiveLevels]:
    """Return the note of how many experts are active in each layer. It belongs to weights, precision and routers."""
    weights = manifest.files["weights.bin"].sha256
    graphs = [manifest.files[file].sha256 for file in manifest.variants.get(SPARSE, {}).values()]
    return Note(
        finding=ActiveLevels,
        name="active",
        what="share of active experts by layer",
        command=COMMAND,
        made_for={"weights": weights, "graphs of experts": graphs},
        key=(weights, manifest.recipe, graphs),
    )


def levels_of(model: Model) -> tuple[ActiveLevel, ...]:
    """Return the levels of a model, ascending: what a search kept, else those that the bundle has; read once."""
    return model.shared.get("active levels", lambda: _read(model))


def _read(model: Model) -> tuple[ActiveLevel, ...]:
    kept = active_note(model.manifest).find(model.profiles)
    entry = model.manifest.experts
    assert entry is not None, "the caller has looked"
    levels = kept.levels if kept else [_level(level, model.manifest) for level in entry.levels.values()]
    return tuple(sorted(levels, key=lambda level: level.share))


def _level(level: ExpertLevel, manifest: Manifest) -> ActiveLevel:
    return ActiveLevel(share=share_of(level.active, manifest), counts=level.active, kl=level.kl)


def least_counts(manifest: Manifest) -> tuple[int, ...]:
    """Return the fewest experts of each layer that can run: those for all tokens, and one of the others."""
    assert manifest.experts is not None, "the caller has looked"
    return (manifest.experts.num_shared + 1,) * manifest.dimensions.num_layers


def all_counts(manifest: Manifest) -> tuple[int, ...]:
    """Return the number of all experts of each layer."""
    assert manifest.experts is not None, "the caller has looked"
    return (manifest.experts.num_experts,) * manifest.dimensions.num_layers


def share_of(counts: Iterable[int], manifest: Manifest) -> float:
    """Return the share of all experts that so many of each layer are."""
    return sum(counts) / sum(all_counts(manifest))


def level_for(model: Model, share: float) -> ActiveLevel:
    """Return the level at a share of active experts: between two that are known, each layer between its two numbers.

    These are rounded up, so that no fewer run than asked for. Below the least possible it is the least.
    """
    manifest = model.manifest
    ends = [
        ActiveLevel(share=share_of(counts, manifest), counts=counts, kl=kl)
        for counts, kl in ((least_counts(manifest), None), (all_counts(manifest), 0.0))
    ]
    by_share = {level.share: level for level in (*ends, *levels_of(model))}
    known = sorted(by_share.values(), key=lambda level: level.share)
    above = next((level for level in known if level.share >= share - 1e-9), known[-1])
    below = max((level for level in known if level.share < share - 1e-9), key=lambda one: one.share, default=above)
    counts = between(below, above, share)
    if counts == above.counts:
        return above
    return ActiveLevel(share=share_of(counts, manifest), counts=counts)


def between(below: ActiveLevel, above: ActiveLevel, share: float) -> tuple[int, ...]:
    """Return the counts at a share between two levels, each rounded up."""
    if above.share - below.share < 1e-9:
        return above.counts
    place = min(max((share - below.share) / (above.share - below.share), 0.0), 1.0)
    pairs = zip(below.counts, above.counts, strict=True)
    return tuple(math.ceil(low + place * (high - low) - 1e-9) for low, high in pairs)


def sparse_part(level: ActiveLevel) -> Part:
    """Return the call of all stages with so many experts."""
    return Part(variant=SPARSE, active=level.counts)
