"""The fit of a layer whose weight is masked: zeros do not change, the other weights compensate.

A row with support S has  w_S = w0_S + (A_SS + lambda I)^-1 (d - w0 A)_S. For a given mask this is the optimum, so that
no other update of the same weights has a smaller error on the samples of the fit. Two greedy searches look for a better
mask: SparseGPT (Frantar and Alistarh, arXiv:2301.00774) in one sweep over the columns, and OBC (Frantar, Singh and
Alistarh, arXiv:2208.11580) exactly, row by row. Masks are compared after the refit, on held-out samples.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from compressor.core import MaskSearch, NMPattern
from compressor.reconstruction.moments import Statistics
from compressor.reconstruction.solve import Solver, SolverFor

MAX_ROW_WORK = 2e11
"""Multiply-adds above which rows are solved together by conjugate gradients instead of one by one."""
MAX_EXACT_WORK = 3e9
"""Multiply-adds above which a mask is not searched for exactly."""


def masked_solver(support: Tensor) -> SolverFor:
    """Build a solver for `fit` that keeps weights outside the support at zero.

    Args:
        support: True where a weight may be other than zero, (G, o, n).

    Returns:
        The solver.
    """

    return partial(_bind, support)


def _bind(support: Tensor, statistics: Statistics, weight: Tensor) -> Solver:
    """The solver of one layer: a function of the ridge."""
    gradient = statistics.yx - weight @ statistics.xx

    def solve(ridge: float) -> Tensor:
        matrices = statistics.with_ridge(ridge).xx
        work = float(support.double().sum(-1).pow(3).sum()) / 3
        update = _by_rows if work <= MAX_ROW_WORK else _jointly
        changes = [update(*group) for group in zip(matrices, gradient, support, strict=True)]
        return (weight + torch.stack(changes)) * support

    return solve


def search_mask(
    search: MaskSearch, weight: Tensor, matrix: Tensor, budget: NMPattern | float, taps: int
) -> Tensor | None:
    """Look for a mask that leaves less to repair than one of magnitudes.

    Args:
        search: Which search.
        weight: Dense rows (o, n), columns in the order of `weight.reshape(O, -1)`.
        matrix: E[x x^T] with the damping added, (n, n).
        budget: N:M over input channels, or the share of the weights that is kept.
        taps: Kernel positions; groups of M are M input channels at the same one.

    Returns:
        The mask (o, n) in the order of `weight`; None where the search would take too long.
    """
    rows, columns = weight.shape
    if search == "obc" and rows * columns**3 > MAX_EXACT_WORK:
        return None
    channels_last = torch.arange(columns).reshape(-1, taps).T.reshape(-1)
    ordered = weight[:, channels_last], matrix[channels_last][:, channels_last]
    searched, _ = (sparsegpt if search == "sparsegpt" else optimal_brain)(*ordered, budget)
    mask = torch.empty_like(searched)
    mask[:, channels_last] = searched
    return mask


def _by_rows(matrix: Tensor, gradient: Tensor, support: Tensor) -> Tensor:
    """The change (o, n) of every row on its support; rows with a singular system get the smallest one."""
    change = torch.zeros_like(gradient)
    for row, allowed in enumerate(support):
        index = allowed.nonzero().squeeze(1)
        system, right = matrix[index][:, index], gradient[row, index]
        lower, failure = torch.linalg.cholesky_ex(system)
        if bool(failure):
            change[row, index] = torch.linalg.pinv(system, hermitian=True, rtol=1e-10) @ right
        elif len(index):
            change[row, index] = torch.cholesky_solve(right.unsqueeze(1), lower).squeeze(1)
    return change


def _jointly(matrix: Tensor, gradient: Tensor, support: Tensor, steps: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The same for all rows at once, by conjugate gradients with Jacobi preconditioning and step sizes per row."""
    mask = support.to(gradient)
    inverse = matrix.diagonal().clamp_min(1e-300).reciprocal()
    change = torch.zeros_like(gradient)
    residual = gradient * mask
    first = residual.norm(dim=1).clamp_min(1e-300)
    direction = residual * inverse
    size = (residual * direction).sum(1, keepdim=True)
    for _ in range(steps):
        image = (direction @ matrix) * mask
        curvature = (direction * image).sum(1, keepdim=True)
        step = torch.where(curvature > 0, size / curvature.clamp_min(1e-300), 0.0)
        change, residual = change + step * direction, residual - step * image
        if bool((residual.norm(dim=1) <= tolerance * first).all()):
            break
        scaled = residual * inverse
        new_size = (residual * scaled).sum(1, keepdim=True)
        direction = scaled + torch.where(size > 0, new_size / size.clamp_min(1e-300), 0.0) * direction
        size = new_size
    return change


def sparsegpt(weight: Tensor, matrix: Tensor, budget: NMPattern | float, block: int = 128) -> tuple[Tensor, Tensor]:
    """Prune a layer in one sweep over its columns, repairing the columns to the right of each pruned weight.

    Args:
        weight: Dense rows (o, n), columns in the order of the sweep; for N:M, groups of M are consecutive.
        matrix: H = E[x x^T] with the damping added, (n, n). The weights of columns without variance are pruned.
        budget: N:M, or the share of the weights that is kept.
        block: Columns between two choices of an unstructured mask.

    Returns:
        The mask (o, n), and the weights as the sweep leaves them.
    """
    weight, matrix = weight.clone(), matrix.clone()
    dead = matrix.diagonal() == 0
    matrix[dead, dead] = 1
    weight[:, dead] = 0
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(matrix)), upper=True)
    scale = upper.diagonal()
    mask = torch.ones_like(weight, dtype=torch.bool)
    step = budget.m if isinstance(budget, NMPattern) else block
    for begin in range(0, weight.shape[1], step):
        columns = slice(begin, min(begin + step, weight.shape[1]))
        scores = (weight[:, columns] / scale[columns]).square()
        if isinstance(budget, NMPattern):
            order = scores.argsort(dim=1, stable=True)[:, : budget.m - budget.n]
            mask[:, columns].scatter_(1, order, False)
        else:
            remove = round((1 - budget) * scores.numel())
            chosen = torch.ones(scores.numel(), dtype=torch.bool)
            chosen[scores.flatten().argsort(stable=True)[:remove]] = False
            mask[:, columns] = chosen.view_as(scores)
        for column in range(columns.start, columns.stop):
            kept = torch.where(mask[:, column], weight[:, column], 0.0)
            error = (weight[:, column] - kept) / scale[column]
            weight[:, column:] -= error.unsqueeze(1) * upper[column, column:]
            weight[:, column] = kept
    return mask, weight


def optimal_brain(weight: Tensor, matrix: Tensor, budget: NMPattern | float) -> tuple[Tensor, Tensor]:
    """Remove weights one at a time, always the one whose removal costs least once the rest of its row is refitted.

    The cost of weight j of a row is w_j^2 / (H^-1)_jj with H restricted to the row's weights that are left. An
    unstructured mask takes the cheapest removals over all rows, those of a row in their order.

    Args:
        weight: Dense rows (o, n).
        matrix: H = E[x x^T] with the damping added, (n, n).
        budget: N:M, or the share of the weights that is kept.

    Returns:
        The mask (o, n), and the optimal weights on it.
    """
    rows, columns = weight.shape
    share = budget.n / budget.m if isinstance(budget, NMPattern) else budget
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    order = torch.full((rows, columns), columns, dtype=torch.int64)
    costs = torch.full((rows, columns), torch.inf, dtype=weight.dtype)
    for row in range(rows):
        _remove_in_order(weight[row].clone(), inverse.clone(), budget, order[row], costs[row])
    if isinstance(budget, NMPattern):
        mask = order >= columns
    else:
        by_order = order.flatten().argsort(stable=True)
        by_cost = by_order[costs.flatten()[by_order].argsort(stable=True)]
        ranked = by_cost[: rows * columns - round(share * rows * columns)]
        mask = torch.ones(rows * columns, dtype=torch.bool)
        mask[ranked] = False
        mask = mask.view(rows, columns)
    gradient = (weight * ~mask) @ matrix
    return mask, (weight * mask) + _by_rows(matrix, gradient, mask)


def _remove_in_order(weight: Tensor, inverse: Tensor, budget: NMPattern | float, order: Tensor, costs: Tensor) -> None:
    """Record when each weight of a row is removed, and at what cost; costs rise within a row."""
    columns = len(weight)
    remaining = torch.ones(columns, dtype=torch.bool)
    room = None if not isinstance(budget, NMPattern) else torch.full((columns // budget.m,), budget.m - budget.n)
    removals = columns if room is None else int(room.sum())
    largest = torch.zeros((), dtype=weight.dtype)
    for step in range(removals):
        allowed = remaining if room is None else remaining & (room > 0).repeat_interleave(columns // len(room))
        cost = torch.where(allowed, weight.square() / inverse.diagonal().clamp_min(1e-300), torch.inf)
        column = int(cost.argmin())
        largest = torch.maximum(largest, cost[column])
        order[column], costs[column] = step, largest
        pivot = inverse[:, column] / inverse[column, column]
        weight -= weight[column] * pivot
        inverse -= torch.outer(pivot, inverse[column])
        weight[column], remaining[column] = 0, False
        if room is not None:
            room[column // (columns // len(room))] -= 1
