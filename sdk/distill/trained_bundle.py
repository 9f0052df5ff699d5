"""The bundle of a training: all files as they were, but for the graphs that run some experts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

from skipstone.distill.carved_layers import sparse_files
from skipstone.distill.laws import DenseLaw, runtime_logits
from skipstone.distill.plan import ExpertTrainingPlan
from skipstone.distill.trained_graphs import Learned, write_trained
from skipstone.runtime.bundle import (
    MANIFEST_NAME,
    SPARSE,
    BundleWriter,
    ExpertLevel,
    FileEntry,
    Manifest,
    write_manifest,
)
from skipstone.runtime.engine import Model, Part

__all__ = ["LevelReport", "write_bundle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelReport:
    """One level on held-out text: KL(all experts || these) in nats per token, before the training and after it.

    `kept` is whether what was learned is in the bundle, which is so where the KL fell, as a share of what it
    was, over all levels.
    """

    share: float
    kl_before: float
    kl_after: float
    kept: bool


def write_bundle(
    plan: ExpertTrainingPlan,
    model: Model,
    learned: Learned,
    windows: SequenceOf[SequenceOf[int]],
    laws: SequenceOf[DenseLaw],
) -> list[LevelReport]:
    """Write the trained bundle; judge it, and the one that it comes from, by their own graphs. Raises: OutputError."""
    source, manifest = plan.bundle.place, plan.bundle.manifest
    assert manifest.experts is not None, "a plan is for a bundle with experts"
    counts = {share: level.active for share, level in manifest.experts.levels.items() if float(share) < 1}
    with BundleWriter(plan.output, plan.replaces) as writer:
        for name in manifest.files:
            (writer.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, writer.path / name)
        for file in sparse_files(plan.bundle):
            write_trained(source / file, writer.path / file, learned)
        before = _losses(model, counts, windows, laws)
        write_manifest(writer.path, lambda files: _manifest(manifest, files, {}))
        after = _losses(Model.open(writer.path, threads=plan.training.threads), counts, windows, laws)
        (writer.path / MANIFEST_NAME).unlink()
        is_kept = _share(before, after) < 1
        if not is_kept:
            for file in sparse_files(plan.bundle):
                shutil.copyfile(source / file, writer.path / file)
        found = after if is_kept else before
        writer.finish(lambda files: _manifest(manifest, files, found))
    return [
        LevelReport(share=float(share), kl_before=before[share], kl_after=after[share], kept=is_kept)
        for share in counts
    ]


def _share(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the KL that is left, as a share of what there was, over all levels."""
    shares = [after[share] / loss for share, loss in before.items() if loss > 0]
    return sum(shares) / len(shares) if shares else 1.0


def _losses(
    model: Model,
    counts: Mapping[str, tuple[int, ...]],
    windows: SequenceOf[SequenceOf[int]],
    laws: SequenceOf[DenseLaw],
) -> dict[str, float]:
    """Return the KL of each level by the graphs of a bundle."""
    losses = {}
    for share, active in counts.items():
        part = Part(variant=SPARSE, active=active)
        pairs = zip(windows, laws, strict=True)
        losses[share] = sum(law.divergence_of(runtime_logits(model, window, part)) for window, law in pairs)
        losses[share] = max(0.0, losses[share] / len(windows))
    return losses


def _manifest(manifest: Manifest, files: Mapping[str, FileEntry], losses: Mapping[str, float]) -> Manifest:
    assert manifest.experts is not None, "a plan is for a bundle with experts"
    levels = {
        share: ExpertLevel(active=level.active, kl=losses.get(share, level.kl))
        for share, level in manifest.experts.levels.items()
    }
    return replace(manifest, files=files, experts=replace(manifest.experts, levels=levels))
