"""Greedy allocation of channels to groups: remove first what costs the least score for the most time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.core import ChannelGroup

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Budget:
    """What a plan may cost at most: `value` maps removed channels (M, G) to the cost (M,)."""

    name: str
    value: Callable[[IntArray], FloatArray]
    limit: float
    baseline: float  # of the model that the limit is a share of


def greedy_allocate(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray],
    start_G: IntArray,
    free_G: BoolArray,
    unit_G: IntArray,
    budgets: Sequence[Budget],
    least_G: IntArray,
) -> IntArray:
    """Choose how many channels each group loses so that every budget holds.

    Every layer passes on what the one before it keeps, so the retained share of a network is taken as the product of
    those of its layers. With k_g the share of its scores that group g retains and n_g the number of layers that write
    it,

        maximise  sum_g n_g log k_g    within the budgets.

    In every step, the next unit of channels is removed from the group that loses least of that sum for its gain towards
    the budgets that do not hold yet, counted in shares of what is missing. At the end surplus units return, the most
    valuable first, as long as the budgets hold. Kept widths are multiples of the group's unit, or the full width.

    Args:
        groups: The channel groups, G of them.
        scores: Group name -> score of each channel, (C,).
        start_G: Channels that are removed in any case.
        free_G: True for the groups that may lose more.
        unit_G: Kept widths are multiples of these.
        budgets: What has to hold.
        least_G: The fewest channels that each group keeps, at least one.

    Returns:
        Channels to remove from each group, (G,); as many as possible where no choice meets the budgets.
    """
    none = np.ones(1)  # for groups without scores, which keep all channels
    kept = [_Kept(scores.get(group.name, none), len(group.writers())) for group in groups]
    size_G = np.array([group.size for group in groups], dtype=np.int64)
    removed_G = start_G.copy()
    open_G = free_G & (size_G > 1)

    def _after_unit(index: int) -> int:
        """Channels removed after one more unit; as many as now where none can be removed."""
        width = int(size_G[index] - removed_G[index])
        down = (width - 1) // int(unit_G[index]) * int(unit_G[index])
        return int(size_G[index]) - down if down >= int(least_G[index]) else int(removed_G[index])

    while True:
        missing = {budget.name: _over(budget, removed_G) for budget in budgets}
        if all(over <= 0 for over in missing.values()):
            break
        candidates = [index for index in np.flatnonzero(open_G).tolist() if _after_unit(index) > removed_G[index]]
        if not candidates:
            break
        tries_MG = np.repeat(removed_G[None], len(candidates), axis=0)
        for row, index in enumerate(candidates):
            tries_MG[row, index] = _after_unit(index)
        gain_M = np.zeros(len(candidates))
        for budget in budgets:
            over = missing[budget.name]
            if over > 0:
                before = float(budget.value(removed_G[None])[0])
                gain_M += np.minimum(before - budget.value(tries_MG), over) / over
        losses = [
            kept[index].log_after(int(removed_G[index])) - kept[index].log_after(_after_unit(index))
            for index in candidates
        ]
        best = int(np.argmin(np.array(losses) / np.maximum(gain_M, 1e-12)))
        removed_G = tries_MG[best]
    return _return_surplus(removed_G, start_G, unit_G, size_G, kept, budgets)


def _return_surplus(
    removed_G: IntArray,
    start_G: IntArray,
    unit_G: IntArray,
    size_G: IntArray,
    kept: Sequence[_Kept],
    budgets: Sequence[Budget],
) -> IntArray:
    """Return the units that fit into the surplus of the last step, the most valuable first."""
    while True:
        tries = []
        for index in np.flatnonzero(removed_G > start_G).tolist():
            back_G = removed_G.copy()
            width = int(size_G[index] - removed_G[index])
            wider = min(int(size_G[index]), (width // int(unit_G[index]) + 1) * int(unit_G[index]))
            back_G[index] = max(int(size_G[index]) - wider, int(start_G[index]))
            tries.append(
                (kept[index].log_after(int(back_G[index])) - kept[index].log_after(int(removed_G[index])), back_G)
            )
        fits_M = np.ones(len(tries), dtype=bool)
        if tries:
            tries_MG = np.stack([back_G for _, back_G in tries])
            for budget in budgets:
                fits_M &= budget.value(tries_MG) <= budget.limit
        fitting = [candidate for candidate, fits in zip(tries, fits_M, strict=True) if fits]
        if not fitting:
            return removed_G
        removed_G = max(fitting, key=lambda candidate: candidate[0])[1]


def _over(budget: Budget, removed_G: IntArray) -> float:
    return float(budget.value(removed_G[None])[0]) - budget.limit


class _Kept:
    """What a group retains of its scores after its lowest channels are removed."""

    def __init__(self, scores_C: FloatArray, writers: int) -> None:
        ranked = np.sort(np.asarray(scores_C, dtype=np.float64))
        ranked = ranked - min(0.0, float(ranked[0])) + 1e-9 * max(float(np.abs(ranked).max()), 1e-30)
        retained = ranked[::-1].cumsum()[::-1]  # after the first i are removed
        self._log = max(1, writers) * np.log(retained / retained[0])

    def log_after(self, removed: int) -> float:
        """log of the retained share, weighted by layers, after so many channels are removed."""
        return float(self._log[removed])


def retained_score(
    groups: Sequence[ChannelGroup], scores: Mapping[str, FloatArray], plan: Mapping[str, BoolArray]
) -> float:
    """Compute the share of its scores that a layer retains, as the mean over the layers that write prunable groups.

    For L1 scores this is the retained share of the L1 norm of a layer's filters.

    Args:
        groups: The channel groups.
        scores: Group name -> score of each channel, (C,).
        plan: Group name -> mask of the kept channels, (C,).

    Returns:
        The mean share; 1.0 where no group is prunable.
    """
    shares, layers = [], []
    for group in groups:
        if group.frozen is None:
            score_C = np.asarray(scores[group.name], dtype=np.float64)
            retained = score_C[plan[group.name]].sum() if group.name in plan else score_C.sum()
            shares.append(float(retained / score_C.sum()) if score_C.sum() else 1.0)
            layers.append(max(1, len(group.writers())))
    return float(np.average(shares, weights=layers)) if shares else 1.0
