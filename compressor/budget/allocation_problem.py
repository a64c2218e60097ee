"""What an allocation of removed channels is given. G groups, C channels of one group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.budget.greedy import Budget
from compressor.budget.layer_rules import layer_ratio
from compressor.budget.target import PruningTarget
from compressor.core import ChannelGroup

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class AllocationProblem:
    """Groups and their scores, what a rule removes in any case, and the budgets that must hold.

    `free_G`: whether a group loses what the target requires. `start_G`: channels that rules remove. `before_G`:
    channels that earlier rounds removed; ratios are shares of the original widths. `least_G`: the fewest to keep.
    """

    groups: tuple[ChannelGroup, ...]
    scores: Mapping[str, FloatArray]
    free_G: BoolArray
    start_G: IntArray
    before_G: IntArray
    least_G: IntArray
    budgets: Sequence[Budget]

    @classmethod
    def of(
        cls,
        groups: tuple[ChannelGroup, ...],
        scores: Mapping[str, FloatArray],
        target: PruningTarget,
        budgets: Sequence[Budget],
        removed_before: Mapping[str, int],
    ) -> AllocationProblem:
        """Apply the ratios of the recipe's rules.

        Args:
            groups: The channel groups; frozen ones keep all channels.
            scores: Group name -> score of each channel, (C,).
            target: The target and the policy.
            budgets: What must hold.
            removed_before: Group name -> channels removed in earlier rounds.

        Returns:
            The problem.
        """
        ratios = [None if group.frozen else layer_ratio(group, target.rules) for group in groups]
        is_free = [group.frozen is None and ratio is None for group, ratio in zip(groups, ratios, strict=True)]
        free_G = np.array(is_free, dtype=np.bool_)
        before_G = np.array([removed_before.get(group.name, 0) for group in groups], dtype=np.int64)
        least_G = _fewest_kept(groups, before_G, target.min_keep_ratio)
        start_G = _shares(groups, ratios, before_G, least_G)
        return cls(groups, scores, free_G, start_G, before_G, least_G, budgets)

    @property
    def free(self) -> list[int]:
        """Indices of the free groups."""
        indices: list[int] = np.flatnonzero(self.free_G).tolist()
        return indices

    def fits(self, removed_G: IntArray) -> bool:
        """Whether every budget holds after removing so many channels from each group."""
        return all(float(budget.value(removed_G[None])[0]) <= budget.limit for budget in self.budgets)

    def usage(self, removed_G: IntArray) -> float:
        """The largest share of its limit that a budget uses; 1 without budgets."""
        return max((float(budget.value(removed_G[None])[0]) / budget.limit for budget in self.budgets), default=1.0)

    def fewest_kept(self, share: float) -> IntArray:
        """floor(share * C) of the original channels, and no fewer than `least_G`."""
        return np.maximum(self.least_G, _fewest_kept(self.groups, self.before_G, share))

    def shares(self, ratio: float) -> IntArray:
        """Channels to remove for one ratio: ceil(ratio * C) of each free group, and what rules remove of the others."""
        ratios = [ratio if free else None for free in self.free_G.tolist()]
        return np.where(self.free_G, _shares(self.groups, ratios, self.before_G, self.least_G), self.start_G)


def _fewest_kept(groups: Sequence[ChannelGroup], before_G: IntArray, share: float) -> IntArray:
    """The fewest channels that groups keep: floor(share * C) of their original ones, at least one."""
    sizes_G = np.array([group.size for group in groups], dtype=np.int64)
    return np.minimum(sizes_G, np.maximum(1, ((sizes_G + before_G) * share + 1e-9).astype(np.int64)))


def _shares(
    groups: Sequence[ChannelGroup], ratios: Sequence[float | None], before_G: IntArray, least_G: IntArray
) -> IntArray:
    """ceil(ratio * C) of the original channels, the float product taken literally, and never all of them."""
    counts = [
        0 if ratio is None else min(max(0, math.ceil(ratio * (group.size + before)) - before), group.size - least)
        for group, ratio, before, least in zip(groups, ratios, before_G.tolist(), least_G.tolist(), strict=True)
    ]
    return np.array(counts, dtype=np.int64)
