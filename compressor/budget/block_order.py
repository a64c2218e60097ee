"""The order in which residual blocks are dropped: at every step the block with the least divergence for what it saves.

A block costs more divergence the more blocks are gone already, so that what it cost earlier is a lower bound. Only the
blocks at the head of the queue are measured again (Minoux, Accelerated greedy algorithms for maximizing submodular set
functions, 1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drop:
    """One block that is dropped, and the divergence once it and all blocks before it are."""

    name: str
    divergence: float


def order_of_blocks(
    savings: Mapping[str, float],
    divergence: Callable[[tuple[str, ...]], float],
    enough: Callable[[tuple[str, ...]], bool],
) -> tuple[Drop, ...]:
    """Drop blocks one by one.

    Args:
        savings: Block -> what its removal saves, in multiply-adds, milliseconds or another cost; blocks that save
            nothing are not dropped.
        divergence: Measures the model without these blocks.
        enough: Whether no further block is to be dropped.

    Returns:
        The blocks in the order in which they are dropped.
    """
    drops: list[Drop] = []
    queue = [
        (divergence((name,)) / saving, number, name)
        for number, (name, saving) in enumerate(savings.items())
        if saving > 0
    ]
    heapq.heapify(queue)
    measured = {name: 0 for _, _, name in queue}  # block -> drops when it was measured last
    while queue and not enough(tuple(drop.name for drop in drops)):
        price, number, name = heapq.heappop(queue)
        dropped, last = tuple(drop.name for drop in drops), drops[-1].divergence if drops else 0.0
        if measured[name] < len(drops):
            measured[name] = len(drops)
            price = (divergence((*dropped, name)) - last) / savings[name]
            heapq.heappush(queue, (price, number, name))
            continue
        drops.append(Drop(name, last + price * savings[name]))
    return tuple(drops)


def best_count(counts: int, divergence: Callable[[int], float | None], trials: int) -> dict[int, float]:
    """Measure several numbers of dropped blocks: none, half and all, then those between the best and its neighbours.

    Args:
        counts: The largest number.
        divergence: Measures a number from 0; None where the target cannot be reached with it.
        trials: Most numbers to measure.

    Returns:
        Number -> divergence, of all that were measured and reach the target.
    """
    reached: dict[int, float] = {}
    tried: set[int] = set()

    def measure(count: int) -> None:
        tried.add(count)
        value = divergence(count)
        if value is not None:
            reached[count] = value

    for count in dict.fromkeys((0, round(counts / 2), counts)):
        measure(count)
    while len(tried) < trials and reached:
        best = min(reached, key=reached.__getitem__)
        below = max((count for count in tried if count < best), default=best)
        above = min((count for count in tried if count > best), default=best)
        gaps = [(low, high) for low, high in ((below, best), (best, above)) if high - low > 1]
        if not gaps:
            break
        low, high = max(gaps, key=lambda gap: gap[1] - gap[0])
        measure((low + high) // 2)
    return reached
