"""Allocation by error: the widths with the least predicted divergence of the answers that meet every target.

    minimize  sum_g f_g(k_g)   subject to   cost_b(k) <= limit_b for every budget b

f_g is the weighted error curve of group g (Frantar and Alistarh, SPDY, arXiv:2201.13096; Shen et al., HALP,
arXiv:2110.10811; both choose by what is lost against measured time). Costs are products of widths, so that no knapsack
is exact: for multipliers l_b the sum f + sum_b l_b cost_b / limit_b is minimized group by group until nothing changes,
multipliers are found by bisection, and exchanges between two groups improve the result. The minimum of the Lagrange
function bounds the optimum from below; the bound is as good as that minimum. M plans at once, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.budget.greedy import Budget

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray, IntArray

LEVELS = 64
"""Most widths of a group that are compared."""
BISECTIONS = 30
SWEEPS = 20
REWEIGHTINGS = 4
LEAST_FALL = 1e-9
"""Share of the error by which an exchange must lower it."""
SLACK = 0.98
"""A budget that is used less counts less in the next search."""


@dataclass(frozen=True, slots=True)
class ErrorAllocation:
    """Channels to remove from each group. `gap`: (error - lower bound) / error, by the Lagrange function."""

    removed_G: IntArray
    error: float
    gap: float  # largest share of the error that a better allocation could save; only tests read it
    feasible: bool


def allocate_by_error(
    errors: Sequence[FloatArray],
    start_G: IntArray,
    free_G: BoolArray,
    unit_G: IntArray,
    budgets: Sequence[Budget],
    least_G: IntArray,
) -> ErrorAllocation:
    """Choose how many channels each group loses.

    Args:
        errors: Of each group, the predicted divergence after 0 to C - 1 removals, (C,).
        start_G: Channels that are removed in any case.
        free_G: True for the groups that may lose more.
        unit_G: Kept widths are multiples of these, or the full width.
        budgets: What has to hold.
        least_G: The fewest channels that each group keeps.

    Returns:
        The allocation; with everything removed that can be, if no choice meets the budgets.
    """
    search = _Search(errors, start_G, free_G, unit_G, budgets, least_G)
    smallest_G = np.array([levels[-1] for levels in search.levels], dtype=np.int64)
    if not search.fits(smallest_G[None])[0]:
        return ErrorAllocation(smallest_G, search.error(smallest_G), 0.0, feasible=False)
    weights_B = np.ones(len(budgets))
    best_G, bound = smallest_G, 0.0
    for _ in range(REWEIGHTINGS if len(budgets) > 1 else 1):
        removed_G, lower = search.bisect(weights_B, smallest_G)
        bound = max(bound, lower)
        if search.error(removed_G) < search.error(best_G):
            best_G = removed_G
        weights_B = np.where(search.usage(removed_G[None])[0] < SLACK, weights_B / 8, weights_B)
    best_G = search.exchange(search.fill(best_G))
    error = search.error(best_G)
    return ErrorAllocation(best_G, error, max(0.0, (error - bound) / error) if error > 0 else 0.0, feasible=True)


class _Search:
    """Everything that the search does not change."""

    def __init__(
        self,
        errors: Sequence[FloatArray],
        start_G: IntArray,
        free_G: BoolArray,
        unit_G: IntArray,
        budgets: Sequence[Budget],
        least_G: IntArray,
    ) -> None:
        self._errors, self._budgets = errors, budgets
        self.levels = [
            _levels(len(curve), int(start), int(unit), int(least)) if free else np.array([start])
            for curve, start, free, unit, least in zip(errors, start_G, free_G, unit_G, least_G, strict=True)
        ]

    def error(self, removed_G: IntArray) -> float:
        return float(self.errors(removed_G[None])[0])

    def errors(self, removed_MG: IntArray) -> FloatArray:
        """Predicted divergence, (M,)."""
        total_M = np.zeros(len(removed_MG))
        for index, curve in enumerate(self._errors):
            total_M += curve[removed_MG[:, index]]
        return total_M

    def usage(self, removed_MG: IntArray) -> FloatArray:
        """Cost over limit, (M, B)."""
        return np.stack([budget.value(removed_MG) / budget.limit for budget in self._budgets], axis=1)

    def fits(self, removed_MG: IntArray) -> BoolArray:
        return np.asarray((self.usage(removed_MG) <= 1).all(axis=1))

    def bisect(self, weights_B: FloatArray, smallest_G: IntArray) -> tuple[IntArray, float]:
        """Search the multiplier of the budgets that gives the plan of least error.

        Args:
            weights_B: Share of every limit in the multiplier, (B,).
            smallest_G: A plan that fits, in channels removed from every group, (G,).

        Returns:
            The plan of least error that fits, (G,), and the largest lower bound of that error.
        """
        low, high = -30.0, 12.0  # log multiplier
        best_G, bound = smallest_G, 0.0
        largest_G = np.array([levels[0] for levels in self.levels], dtype=np.int64)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            multipliers_B = np.exp(middle) * weights_B
            removed_G = self._minimize(multipliers_B, largest_G)
            other_G = self._minimize(multipliers_B, best_G)
            if self._lagrangian(other_G, multipliers_B) < self._lagrangian(removed_G, multipliers_B):
                removed_G = other_G
            bound = max(bound, self._lagrangian(removed_G, multipliers_B) - float(multipliers_B.sum()))
            if self.fits(removed_G[None])[0]:
                high = middle
                if self.error(removed_G) < self.error(best_G):
                    best_G = removed_G
            else:
                low = middle
        return best_G, bound

    def fill(self, removed_G: IntArray) -> IntArray:
        """Return channels to the groups where that gains most, as long as the budgets hold."""
        while True:
            wider_G = self._next(removed_G, -1)
            indices = np.flatnonzero(wider_G != removed_G)
            if not len(indices):
                return removed_G
            tries_MG = np.repeat(removed_G[None], len(indices), axis=0)
            tries_MG[np.arange(len(indices)), indices] = wider_G[indices]
            gains_M = self.error(removed_G) - self.errors(tries_MG)
            usable_M = self.fits(tries_MG) & (gains_M > 0)
            if not usable_M.any():
                return removed_G
            removed_G = tries_MG[int(np.argmax(np.where(usable_M, gains_M, -np.inf)))]

    def exchange(self, removed_G: IntArray) -> IntArray:
        """Widen one group at the cost of another as long as the error falls."""
        for _ in range(len(removed_G) * 4):
            tries_MG = self._exchanges(removed_G)
            errors_M = self.errors(tries_MG)
            falls_M = errors_M < self.error(removed_G) * (1 - LEAST_FALL)
            if not falls_M.any():
                break
            tries_MG, errors_M = tries_MG[falls_M], errors_M[falls_M]
            fits_M = self.fits(tries_MG)
            if not fits_M.any():
                break
            removed_G = tries_MG[int(np.argmin(np.where(fits_M, errors_M, np.inf)))]
        return removed_G

    def _exchanges(self, removed_G: IntArray) -> IntArray:
        """Plans in which one group is wider, another narrower, and the error is less by the curves of these two."""
        wider_G, narrower_G = self._next(removed_G, -1), self._next(removed_G, 1)
        changes_GG = self._changes(removed_G, wider_G)[:, None] + self._changes(removed_G, narrower_G)
        moves_GG = (wider_G != removed_G)[:, None] & (narrower_G != removed_G)
        np.fill_diagonal(moves_GG, val=False)
        # Half of the least fall: what rounding would decide is left to the sum over all groups.
        falls_GG = changes_GG < -LEAST_FALL / 2 * self.error(removed_G)
        wider, narrower = np.nonzero(moves_GG & falls_GG)
        tries_MG = np.repeat(removed_G[None], len(wider), axis=0)
        rows = np.arange(len(wider))
        tries_MG[rows, wider], tries_MG[rows, narrower] = wider_G[wider], narrower_G[narrower]
        return tries_MG

    def _changes(self, removed_G: IntArray, moved_G: IntArray) -> FloatArray:
        """What the error changes by where one group moves, (G,)."""
        triples = zip(self._errors, moved_G, removed_G, strict=True)
        return np.array([curve[moved] - curve[removed] for curve, moved, removed in triples])

    def _next(self, removed_G: IntArray, step: int) -> IntArray:
        """The next wider (-1) or narrower (1) width of each group, in channels removed; the same where it has none."""
        moved_G = removed_G.copy()
        for index, levels in enumerate(self.levels):
            place = int(np.searchsorted(levels, removed_G[index])) + step
            if 0 <= place < len(levels):
                moved_G[index] = levels[place]
        return moved_G

    def _lagrangian(self, removed_G: IntArray, multipliers_B: FloatArray) -> float:
        return self.error(removed_G) + float(self.usage(removed_G[None])[0] @ multipliers_B)

    def _minimize(self, multipliers_B: FloatArray, removed_G: IntArray) -> IntArray:
        """Minimize the Lagrange function over one group after the other until nothing changes."""
        removed_G = removed_G.copy()
        for _ in range(SWEEPS):
            before_G = removed_G.copy()
            for index, levels in enumerate(self.levels):
                if len(levels) > 1:
                    tries_MG = np.repeat(removed_G[None], len(levels), axis=0)
                    tries_MG[:, index] = levels
                    values_M = self._errors[index][levels] + self.usage(tries_MG) @ multipliers_B
                    removed_G[index] = levels[int(np.argmin(values_M))]
            if (before_G == removed_G).all():
                break
        return removed_G


def _levels(size: int, start: int, unit: int, least: int) -> IntArray:
    """Numbers of removed channels that leave a rounded width, at most LEVELS of them, the smallest first."""
    widths = np.arange(unit, size, unit, dtype=np.int64)
    widths = widths[(widths >= least) & (widths <= size - start)]
    if len(widths) > LEVELS:
        widths = widths[np.unique(np.linspace(0, len(widths) - 1, LEVELS).round().astype(np.int64))]
    widest = np.array([size - start], dtype=np.int64)
    return size - np.unique(np.concatenate([widths, widest]))[::-1]
