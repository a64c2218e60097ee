"""How many channels each group loses, where every channel has a price in time: least importance for most gain first.

Pure, like choose.py. G groups, C channels of one, M candidates at once.
"""

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
    """What a plan may come to at most: `value` takes removed channels (M, G) to (M,)."""

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
    limits: Sequence[Budget],
    least_G: IntArray | None = None,
) -> IntArray:
    """Channels to remove from each group so that every limit holds; all that can go where that is not enough.

    Groups keep at least `least_G`; one channel where nothing is said.

    The signal that passes a network is passed on by each layer in turn, so what is kept of it is taken as the product
    of what the layers keep: with k_g the share of its scores that group g keeps and n_g the layers that write it,

        maximise  sum_g n_g log k_g    under the limits.

    Greedy: of all groups, the next `unit` channels go from the one that loses least of that sum for what it brings
    towards the limits that do not hold yet, counted in shares of what is still missing. In the end units come back,
    dearest first, as long as the limits hold. Kept widths are multiples of the group's unit, or whole.
    """
    none = np.ones(1)  # for groups that stay whole, which have no scores
    kept = [_Kept(scores.get(group.name, none), len(group.writers())) for group in groups]
    size_G = np.array([group.size for group in groups], dtype=np.int64)
    removed_G = start_G.copy()
    open_G = free_G & (size_G > 1)

    def less(index: int) -> int:
        """Channels gone after one unit more; as many as now where no more can go."""
        width = int(size_G[index] - removed_G[index])
        down = (width - 1) // int(unit_G[index]) * int(unit_G[index])
        least = 1 if least_G is None else int(least_G[index])
        return int(size_G[index]) - down if down >= least else int(removed_G[index])

    while True:
        missing = {limit.name: _over(limit, removed_G) for limit in limits}
        if all(over <= 0 for over in missing.values()):
            break
        candidates = [index for index in np.flatnonzero(open_G).tolist() if less(index) > removed_G[index]]
        if not candidates:
            break
        tries_MG = np.repeat(removed_G[None], len(candidates), axis=0)
        for row, index in enumerate(candidates):
            tries_MG[row, index] = less(index)
        gain_M = np.zeros(len(candidates))
        for limit in limits:
            over = missing[limit.name]
            if over > 0:
                before = float(limit.value(removed_G[None])[0])
                gain_M += np.minimum(before - limit.value(tries_MG), over) / over
        losses = [kept[index].loss(int(removed_G[index]), less(index)) for index in candidates]
        best = int(np.argmin(np.array(losses) / np.maximum(gain_M, 1e-12)))
        removed_G = tries_MG[best]
    return _return_surplus(removed_G, start_G, unit_G, size_G, kept, limits)


def _return_surplus(
    removed_G: IntArray,
    start_G: IntArray,
    unit_G: IntArray,
    size_G: IntArray,
    kept: Sequence[_Kept],
    limits: Sequence[Budget],
) -> IntArray:
    """With the units back that fit into what the last one took too much; the one worth most first."""
    while True:
        tries = []
        for index in np.flatnonzero(removed_G > start_G).tolist():
            back_G = removed_G.copy()
            width = int(size_G[index] - removed_G[index])
            wider = min(int(size_G[index]), (width // int(unit_G[index]) + 1) * int(unit_G[index]))
            back_G[index] = max(int(size_G[index]) - wider, int(start_G[index]))
            tries.append((kept[index].loss(int(back_G[index]), int(removed_G[index])), back_G))
        fits_M = np.ones(len(tries), dtype=bool)
        if tries:
            tries_MG = np.stack([back_G for _, back_G in tries])
            for limit in limits:
                fits_M &= limit.value(tries_MG) <= limit.limit
        fitting = [each for each, fits in zip(tries, fits_M, strict=True) if fits]
        if not fitting:
            return removed_G
        removed_G = max(fitting, key=lambda each: each[0])[1]


def _over(limit: Budget, removed_G: IntArray) -> float:
    return float(limit.value(removed_G[None])[0]) - limit.limit


class _Kept:
    """What a group keeps of its scores, after so many channels are gone, the lowest first."""

    def __init__(self, scores_C: FloatArray, writers: int) -> None:
        ranked = np.sort(np.asarray(scores_C, dtype=np.float64))
        ranked = ranked - min(0.0, float(ranked[0])) + 1e-9 * max(float(np.abs(ranked).max()), 1e-30)
        left = ranked[::-1].cumsum()[::-1]  # what is left when the first i are gone
        self._log = max(1, writers) * np.log(left / left[0])

    def loss(self, before: int, after: int) -> float:
        return float(self._log[before] - self._log[after])


def retained_score(
    groups: Sequence[ChannelGroup], scores: Mapping[str, FloatArray], plan: Mapping[str, BoolArray]
) -> float:
    """Share of its scores that a layer keeps, mean over the layers that write groups which can be cut.

    For L1 scores: the share of the L1 norm of a layer's filters that is left.
    """
    shares, layers = [], []
    for group in groups:
        if group.frozen is None:
            score_C = np.asarray(scores[group.name], dtype=np.float64)
            left = score_C[plan[group.name]].sum() if group.name in plan else score_C.sum()
            shares.append(float(left / score_C.sum()) if score_C.sum() else 1.0)
            layers.append(max(1, len(group.writers())))
    return float(np.average(shares, weights=layers)) if shares else 1.0
