"""Scores and a target in, a plan out. Pure: nothing here touches a module.

G groups, C channels of one. `removed_G` counts the channels that go from each group; which ones, the scores say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from compressor.core import ChannelGroup, Cost, PrunePlan, Selection
from compressor.errors import TargetNotReached
from compressor.graph.cost import CostModel
from compressor.graph.layer_rules import frozen_by, ratio_of

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray, IntArray


def choose(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray],
    selection: Selection,
    cost: CostModel,
    original: Cost,
) -> tuple[PrunePlan, tuple[ChannelGroup, ...]]:
    """The plan, and the groups with those marked that the recipe froze.

    Channels are put in one order of removal: by rank within the group over its size (scope local), or by score (scope
    global); ties go by index. The shortest run from the front that meets the target goes; channels at the end of the
    run come back where the target allows it. Widths are rounded up to multiples of `round_to`.

    Raises:
        RecipeError: a rule's glob matches no layer.
        TargetNotReached: removing all that can go leaves more than the target allows.
    """
    groups = frozen_by(groups, selection.rules)
    asked = [None if group.frozen else ratio_of(group, selection.rules) for group in groups]
    start_G = np.array([_share(group, ratio) for group, ratio in zip(groups, asked, strict=True)], dtype=np.int64)
    free = [index for index, group in enumerate(groups) if group.frozen is None and asked[index] is None]
    order = _order(groups, free, scores, selection.scope)
    rounding = _Rounding(groups, selection.round_to)
    if selection.ratio is None:
        removed_G = _meet(start_G, order, rounding, selection, cost, original)
    elif selection.scope == "global":
        count = math.ceil(selection.ratio * sum(groups[index].size for index in free))
        removed_G = rounding(_after(start_G, order[:count]))
    else:
        for index in free:
            start_G[index] = _share(groups[index], selection.ratio)
        removed_G = rounding(start_G)
    kept = {
        group.name: _keep_best(scores[group.name], gone)
        for group, gone in zip(groups, removed_G.tolist(), strict=True)
        if gone
    }
    return PrunePlan(kept), groups


def _share(group: ChannelGroup, ratio: float | None) -> int:
    """ceil(ratio * C), the float product taken literally, and never all."""
    return 0 if ratio is None else min(math.ceil(ratio * group.size), group.size - 1)


def _order(
    groups: Sequence[ChannelGroup],
    free: Sequence[int],
    scores: Mapping[str, FloatArray],
    scope: Literal["local", "global"],
) -> IntArray:
    """The group each next channel is taken from; the best channel of every group is never taken."""
    keyed: list[tuple[float, int, int]] = []
    for index in free:
        group = groups[index]
        for rank, score in enumerate(np.sort(scores[group.name])[:-1].tolist()):
            keyed.append((score if scope == "global" else (rank + 1) / group.size, index, rank))
    return np.array([index for _, index, _ in sorted(keyed)], dtype=np.int64)


def _after(start_G: IntArray, taken: IntArray) -> IntArray:
    return start_G + np.bincount(taken, minlength=len(start_G))


def _meet(
    start_G: IntArray, order: IntArray, rounding: _Rounding, selection: Selection, cost: CostModel, original: Cost
) -> IntArray:
    """The fewest channels, in order, for which every target holds."""
    asked = {"macs": selection.macs, "params": selection.params}
    shares = {name: share for name, share in asked.items() if share is not None}

    def fits(removed_G: IntArray) -> bool:
        found = cost.cost(removed_G)
        return all(getattr(found, name) <= share * getattr(original, name) for name, share in shares.items())

    def first(count: int) -> IntArray:
        return rounding(_after(start_G, order[:count]))

    low, high = 0, len(order)
    if not fits(first(high)):
        least = cost.cost(first(high))
        found = " and ".join(
            f"{name} {getattr(least, name) / getattr(original, name):.1%} at the least, asked for {share:.1%}"
            for name, share in shares.items()
        )
        todo = "ask for more to remain, or free frozen layers (see inspect)"
        raise TargetNotReached("target not reachable", "prune.target", found, todo)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(first(middle)) else (middle + 1, high)
    removed_G = first(low)
    for index in order[:low][::-1].tolist():  # give back what the last, coarse step took too much
        back_G = removed_G.copy()
        back_G[index] = rounding.one_less(index, int(removed_G[index]))
        if back_G[index] >= start_G[index] and fits(back_G):
            removed_G = back_G
    return removed_G


class _Rounding:
    """Kept widths as multiples of `round_to`, counted in the entries of the layer that writes the group."""

    def __init__(self, groups: Sequence[ChannelGroup], round_to: int) -> None:
        self._size_G = np.array([group.size for group in groups], dtype=np.int64)
        entries = [next((slot.positions.shape[1] for slot in group.writers()), 1) for group in groups]
        self._unit_G = np.array([round_to // math.gcd(round_to, each) for each in entries], dtype=np.int64)

    def __call__(self, removed_G: IntArray) -> IntArray:
        kept_G = -(-(self._size_G - removed_G) // self._unit_G) * self._unit_G
        return np.where(removed_G > 0, self._size_G - np.minimum(kept_G, self._size_G), 0)

    def one_less(self, index: int, removed: int) -> int:
        """The next smaller number of removed channels of a group that keeps its width rounded."""
        size, unit = int(self._size_G[index]), int(self._unit_G[index])
        return max(0, size - ((size - removed) // unit + 1) * unit)


def _keep_best(scores_C: FloatArray, removed: int) -> BoolArray:
    kept_C = np.ones(len(scores_C), dtype=np.bool_)
    kept_C[np.argsort(scores_C, kind="stable")[:removed]] = False
    return kept_C
