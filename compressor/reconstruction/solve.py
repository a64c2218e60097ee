"""The least-squares fit of a layer to its target, with a ridge towards the weight that surgery kept.

    minimize over W, b   mean || W x + b - y ||^2 + lambda || W - W0 ||^2
    W = W0 + (D - W0 A) (A + lambda I)^-1,    b = mean(y) - W mean(x)

with A = Cov(x, x) and D = Cov(y, x). At lambda = infinity W equals W0 and b compensates for the mean of what was
removed, so that the fit is never worse than mean compensation on the samples it was made from. Shapes: G groups, o
output rows, n input columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from compressor.reconstruction.moments import Statistics

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
NEGLIGIBLE = 1e-6
"""Error, relative to the variance of the target, below which a layer is left as it is. Moments of float32 samples do
not tell a smaller one from zero."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A solved layer. `error_before` and `error_after` are held-out squared errors relative to the target's variance:
    of W0 with the mean compensated, and of the fit."""

    weight: Tensor  # (G, o, n), float64
    bias: Tensor | None  # (G, o); None where the layer has no intercept
    ridge: float  # lambda over the mean input variance; infinite where W0 is kept
    error_before: float
    error_after: float


Solver = Callable[[float], Tensor]
"""ridge -> weight (G, o, n)"""
SolverFor = Callable[[Statistics, Tensor], Solver]
"""moments and W0 (G, o, n) -> the solver"""


def cholesky_solver(statistics: Statistics, weight: Tensor) -> Solver:
    """The solution by one Cholesky factorization for each ridge, and by eigenvalues where one fails.

    Args:
        statistics: Moments of the layer's inputs and targets.
        weight: W0 (G, o, n), which the ridge pulls towards.

    Returns:
        A function of the ridge relative to mean(diag A).
    """
    gradient = (statistics.yx - weight @ statistics.xx).mT

    def solve(ridge: float) -> Tensor:
        lower, failures = torch.linalg.cholesky_ex(statistics.with_ridge(ridge).xx)
        if bool(failures.any()):
            return spectral_solver(statistics, weight)(ridge)
        solved: Tensor = torch.cholesky_solve(gradient, lower)
        return weight + solved.mT

    return solve


def spectral_solver(statistics: Statistics, weight: Tensor) -> Solver:
    """The solution for any ridge from one eigendecomposition A = V diag(e) V^T; directions without variance keep W0.

    It works for every A, but takes about fourteen times as long as one Cholesky factorization.

    Args:
        statistics: Moments of the layer's inputs and targets.
        weight: W0 (G, o, n), which the ridge pulls towards.

    Returns:
        A function of the ridge relative to mean(diag A).
    """
    eigenvalues, vectors = torch.linalg.eigh(statistics.xx)
    eigenvalues = eigenvalues.clamp_min(0)
    gradient = (statistics.yx - weight @ statistics.xx) @ vectors
    scale, largest = eigenvalues.mean(-1, keepdim=True), eigenvalues.amax(-1, keepdim=True)

    def solve(ridge: float) -> Tensor:
        damped = eigenvalues + ridge * scale
        inverse = torch.where(damped > 1e-10 * largest, damped.reciprocal(), 0.0)
        solved: Tensor = weight + (gradient * inverse.unsqueeze(-2)) @ vectors.mT
        return solved

    return solve


def squared_error(statistics: Statistics, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Mean squared error of every row, from moments alone: a quadratic form.

    Args:
        statistics: Moments of the samples to judge by.
        weight: (G, o, n).
        bias: (G, o), or None for a layer without an intercept.

    Returns:
        (G, o).
    """
    explained = (weight * (weight @ statistics.xx - 2 * statistics.yx)).sum(-1)
    offset = (weight @ statistics.mean_x.unsqueeze(-1)).squeeze(-1) - statistics.mean_y
    if bias is not None:
        offset = offset + bias
    return (statistics.yy + explained + offset.square()).clamp_min(0)


def intercept(statistics: Statistics, weight: Tensor) -> Tensor:
    """Compute mean(y) - W mean(x).

    Args:
        statistics: Moments of the samples.
        weight: (G, o, n).

    Returns:
        (G, o).
    """
    return statistics.mean_y - (weight @ statistics.mean_x.unsqueeze(-1)).squeeze(-1)


def fit(
    train: Statistics,
    holdout: Statistics | None,
    weight: Tensor,
    *,
    has_intercept: bool = True,
    ridges: Sequence[float] = RIDGES,
    solver: SolverFor = cholesky_solver,
) -> Fit:
    """Fit a layer for every ridge, and keep the one with the smallest held-out error.

    The weight that surgery left, with its mean compensated, takes part as the infinite ridge and wins ties: a fit is
    accepted only where it is better on samples that it was not made from.

    Args:
        train: Moments that the fit is made from.
        holdout: Moments of other images that choose the ridge; None leaves mean compensation alone.
        weight: W0 (G, o, n).
        has_intercept: Whether the layer or the BatchNorm behind it has room for an intercept.
        ridges: Candidates, relative to the mean input variance.
        solver: How the systems are solved.

    Returns:
        The best candidate. Its errors are relative to the held-out variance of the target, averaged over rows with
        every row counting by its variance.
    """
    if not has_intercept:
        train, holdout = train.uncentred(), holdout and holdout.uncentred()
    judge = holdout or train
    candidate = partial(_candidate, train, judge, has_intercept)
    before, kept, bias = candidate(weight)
    best = Fit(kept, bias, math.inf, before, before)
    if holdout is None or before < NEGLIGIBLE:
        return best
    solve = solver(train, weight)
    for ridge in ridges:
        error, solved, bias = candidate(solve(ridge))
        if error < best.error_after:
            best = Fit(solved, bias, ridge, before, error)
    return best


def _candidate(
    train: Statistics, judge: Statistics, has_intercept: bool, weight: Tensor
) -> tuple[float, Tensor, Tensor | None]:
    """The relative held-out error of a weight, the weight itself, and its intercept."""
    bias = intercept(train, weight) if has_intercept else None
    error = float(squared_error(judge, weight, bias).sum()) / (float(judge.yy.sum()) or 1.0)
    return error, weight, bias
