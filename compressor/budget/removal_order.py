"""One order in which the channels of all groups are removed. C channels of one group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from compressor.budget.allocation_problem import AllocationProblem
from compressor.budget.target import Scope
from compressor.core import ChannelGroup, PrunePlan

if TYPE_CHECKING:
    from compressor.core import FloatArray, IntArray


def removal_order(problem: AllocationProblem, scope: Scope) -> IntArray:
    """Put the channels of the free groups in one order of removal; the best `least_G` of a group are never removed.

    - scope local: by rank within the group over its size;
    - scope global: by score;
    - scope isomorphic: by rank among the channels of all groups of the same structure over their number (Fang et al.,
      Isomorphic Pruning for Vision Models, ECCV 2024, arXiv:2407.04616).

    Ties are broken by index.

    Args:
        problem: Groups, scores and the fewest channels to keep.
        scope: Which channels are compared with each other.

    Returns:
        The group that each next channel is removed from.
    """
    groups = problem.groups
    pools: dict[object, list[tuple[float, int, int]]] = defaultdict(list)  # channels that are compared with each other
    for index in problem.free:
        pool = {"local": index, "global": None, "error": None, "isomorphic": _structure(groups[index])}[scope]
        ranked = np.sort(problem.scores[groups[index].name]).tolist()
        pools[pool] += [(score, index, rank) for rank, score in enumerate(ranked)]
    keyed = [
        ((place + 1) / len(pool), index, rank)
        for pool in pools.values()
        for place, (_, index, rank) in enumerate(sorted(pool))
        if rank < groups[index].size - problem.least_G[index]
    ]
    return np.array([index for _, index, _ in sorted(keyed)], dtype=np.int64)


def _structure(group: ChannelGroup) -> tuple[tuple[str, str, int, int], ...]:
    """The structure of a group, whatever its width: kinds of tensors, their dimensions, entries per channel."""
    return tuple(
        sorted((slot.role, slot.tensor.rpartition(".")[2], slot.dim, slot.positions.shape[1]) for slot in group.slots)
    )


def clamped_groups(scores: Mapping[str, FloatArray], plan: PrunePlan) -> list[str]:
    """List the groups that keep a last channel although a better one of another group is removed.

    Without the rule that every group keeps one channel, they would be emptied.

    Args:
        scores: Group name -> score of each channel, (C,).
        plan: The channels to keep.

    Returns:
        Group names.
    """
    best_removed = {name: scores[name][~kept].max() for name, kept in plan.kept.items()}
    return [
        name
        for name, kept in plan.kept.items()
        if kept.sum() == 1
        and any(scores[name][kept].max() < best for other, best in best_removed.items() if other != name)
    ]
