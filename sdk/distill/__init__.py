"""Routers, stand-ins and boosts of carved experts, trained on what the dense model says; needs torch."""

from __future__ import annotations

from skipstone.distill.plan import ExpertTraining, ExpertTrainingPlan, plan_expert_training
from skipstone.distill.trained_bundle import LevelReport
from skipstone.distill.trainer import train_experts

__all__ = ["ExpertTraining", "ExpertTrainingPlan", "LevelReport", "plan_expert_training", "train_experts"]
