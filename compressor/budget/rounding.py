"""Kept widths as multiples of a number of channels. G groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from compressor.core import ChannelGroup

if TYPE_CHECKING:
    from compressor.core import IntArray


class Rounding:
    """Kept widths as multiples of `round_to`, counted in the entries of the layer that writes the group."""

    def __init__(self, groups: Sequence[ChannelGroup], round_to: int) -> None:
        self.round_to = round_to
        self._size_G = np.array([group.size for group in groups], dtype=np.int64)
        entries = [next((slot.positions.shape[1] for slot in group.writers()), 1) for group in groups]
        self.unit_G = np.array([round_to // math.gcd(round_to, count) for count in entries], dtype=np.int64)

    def __call__(self, removed_G: IntArray) -> IntArray:
        kept_G = -(-(self._size_G - removed_G) // self.unit_G) * self.unit_G
        return np.where(removed_G > 0, self._size_G - np.minimum(kept_G, self._size_G), 0)

    def next_wider(self, index: int, removed: int) -> int:
        """Compute the next smaller number of removed channels that keeps a rounded width.

        Args:
            index: The group.
            removed: Channels removed from it now.

        Returns:
            Channels to remove.
        """
        size, unit = int(self._size_G[index]), int(self.unit_G[index])
        return max(0, size - ((size - removed) // unit + 1) * unit)


def removed_after(start_G: IntArray, removals: IntArray) -> IntArray:
    """Count removed channels after a sequence of removals.

    Args:
        start_G: Channels removed before, (G,).
        removals: The group that each removal takes one channel from.

    Returns:
        Channels removed from each group, (G,).
    """
    return start_G + np.bincount(removals, minlength=len(start_G))


def fewest_removed(
    start_G: IntArray, order: IntArray, rounding: Rounding, fits: Callable[[IntArray], bool]
) -> IntArray:
    """Find the fewest removals, in order, that meet a target.

    Args:
        start_G: Channels removed in any case, (G,).
        order: The group that each removal takes one channel from.
        rounding: Rounds kept widths.
        fits: Whether removed channels (G,) meet the target.

    Returns:
        Channels to remove from each group, (G,); as many as possible where nothing meets the target.
    """

    def first(count: int) -> IntArray:
        return rounding(removed_after(start_G, order[:count]))

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(first(middle)) else (middle + 1, high)
    removed_G = first(low)
    for index in order[:low][::-1].tolist():  # return the surplus of the last, coarse step
        back_G = removed_G.copy()
        back_G[index] = rounding.next_wider(index, int(removed_G[index]))
        if back_G[index] >= start_G[index] and fits(back_G):
            removed_G = back_G
    return removed_G
