"""What each part of a model is worth, from the losses of sub-models that lack some: a regression beside a guess.

Shapes: S sub-models, G parts.
"""

from __future__ import annotations

import itertools
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["fitted_costs"]

Doubles: TypeAlias = NDArray[np.float64]
_FOLDS: Final = 6
# How far the costs of a layer, and of a single part, may be from the guess, and how noisy losses are, as shares.
_OF_LAYERS: Final = (0.0, 0.1, 1.0, 10.0)
_OF_PARTS: Final = (0.0, 0.1, 1.0)
_NOISES: Final = (0.001, 0.01, 0.1)
_FREE: Final = 1e4
_LEAST: Final = 0.1  # of a guess, what a cost is at least


def fitted_costs(absent: NDArray[np.bool_], guesses: Doubles, layers: NDArray[np.int64], losses: Doubles) -> Doubles:
    """Return what leaving out each part costs [G], in nats, from `losses` [S] of sub-models that lack `absent` [S, G].

    The cost of a part is its guess [G] times a factor, which is one number, that of its layer and its own together;
    layers and parts stay near 0 as far as that foretells the losses of sub-models that were put aside.
    Source: Bonsai (Dery et al., 2024), with a Gaussian prior in place of L1.
    """
    scale = guesses.mean() or 1.0
    features: Doubles = np.where(absent, guesses / scale, 0.0)
    total = features.sum(axis=1)
    mean = max(float(losses @ total / max(np.square(total).sum(), 1e-30)), 1e-30)
    losses = losses / mean
    kernels = _kernels(features, layers)
    settings = [*itertools.product(_OF_LAYERS, _OF_PARTS, _NOISES)]
    errors = [_error(kernels, setting, losses) for setting in settings]
    of_layers, of_parts, noise = settings[int(np.argmin(errors))]
    weights = np.linalg.solve(_covariance(kernels, (of_layers, of_parts, noise)), losses)
    whole, parts = total @ weights, features.T @ weights
    by_layer = np.bincount(layers, weights=parts)
    factors = _FREE * whole + of_layers * by_layer[layers] + of_parts * parts
    costs: Doubles = mean * guesses / scale * np.maximum(factors, _LEAST)
    return costs


def _kernels(features: Doubles, layers: NDArray[np.int64]) -> tuple[Doubles, Doubles, Doubles]:
    """Return how alike sub-models are in all they lack, in what they lack of each layer, and part by part [S, S]."""
    total = features.sum(axis=1)
    by_layer = np.stack([features[:, layers == layer].sum(axis=1) for layer in np.unique(layers)], axis=1)
    return np.outer(total, total), by_layer @ by_layer.T, features @ features.T


def _covariance(kernels: tuple[Doubles, Doubles, Doubles], setting: tuple[float, float, float]) -> Doubles:
    whole, by_layer, by_part = kernels
    of_layers, of_parts, noise = setting
    same: Doubles = _FREE * whole + of_layers * by_layer + of_parts * by_part
    same += np.eye(len(whole)) * noise * np.diag(whole).mean()
    return same


def _error(kernels: tuple[Doubles, Doubles, Doubles], setting: tuple[float, float, float], losses: Doubles) -> float:
    """Return how far the losses of each sixth of the sub-models are from what the others foretell: a sum of squares."""
    covariance, numbers, error = _covariance(kernels, setting), np.arange(len(losses)), 0.0
    noise = setting[2] * np.diag(kernels[0]).mean()
    for fold in range(_FOLDS):
        out, kept = numbers % _FOLDS == fold, numbers % _FOLDS != fold
        weights = np.linalg.solve(covariance[np.ix_(kept, kept)], losses[kept])
        foretold = (covariance - noise * np.eye(len(losses)))[np.ix_(out, kept)] @ weights
        error += float(np.square(losses[out] - foretold).sum())
    return error
