"""Training of exit heads; needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipstone.lazy import lazy_names

if TYPE_CHECKING:
    from skipstone.train.head import LearningAdapter, SharedHead, require_torch, threads_for
    from skipstone.train.plan import ExitTraining, TrainingPlan, plan_training
    from skipstone.train.state import PartialRun
    from skipstone.train.trainer import ExitReport, batches_from, schedule, train

__all__ = [
    "ExitReport",
    "ExitTraining",
    "LearningAdapter",
    "PartialRun",
    "SharedHead",
    "TrainingPlan",
    "batches_from",
    "plan_training",
    "require_torch",
    "schedule",
    "threads_for",
    "train",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ExitReport": "skipstone.train.trainer",
        "ExitTraining": "skipstone.train.plan",
        "LearningAdapter": "skipstone.train.head",
        "PartialRun": "skipstone.train.state",
        "SharedHead": "skipstone.train.head",
        "TrainingPlan": "skipstone.train.plan",
        "batches_from": "skipstone.train.trainer",
        "plan_training": "skipstone.train.plan",
        "require_torch": "skipstone.train.head",
        "schedule": "skipstone.train.trainer",
        "threads_for": "skipstone.train.head",
        "train": "skipstone.train.trainer",
    },
)
