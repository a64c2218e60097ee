"""Groups whose widths one field of a library's configuration sets: they lose channels together.

A configuration has one `intermediate_size` for all layers, and one step of `hidden_size` is worth a head. With ties, a
selection removes whole steps from all groups of a field, so that the library can build the slim model.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compressor.core import ChannelGroup, ConfigStep, Freeze
from compressor.errors import RecipeError

if TYPE_CHECKING:
    from compressor.core import IntArray

Tie = Mapping[int, int]
"""Index of a group -> its channels that one step removes."""


def ties_of(groups: Sequence[ChannelGroup], steps: Sequence[ConfigStep]) -> list[Tie]:
    """Find the groups that each step of a configuration changes.

    Args:
        groups: The channel groups.
        steps: What can change in the configuration.

    Returns:
        The ties. A step that changes a frozen group, or part of a channel, has none.
    """
    positions: dict[tuple[str, int], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for index, group in enumerate(groups):
        for slot in group.slots:  # a tied weight has two slots with the same entries
            positions[slot.tensor, slot.dim][index] |= set(slot.positions.ravel().tolist())
    tied: set[int] = set()
    ties: list[Tie] = []
    for step in steps:
        units: dict[int, set[float]] = defaultdict(set)
        for tensor, changes in step.sizes.items():
            for dim, change in changes.items():
                held = {index: len(own) / groups[index].size for index, own in positions.get((tensor, dim), {}).items()}
                for index in held:
                    units[index].add(change / sum(held.values()))
        consistent = all(len(unit) == 1 and next(iter(unit)) % 1 == 0 for unit in units.values())
        if units and consistent and not any(groups[index].frozen for index in units) and not tied & units.keys():
            ties.append({index: int(next(iter(unit))) for index, unit in units.items()})
            tied |= units.keys()
    return ties


def freeze_untied(groups: Sequence[ChannelGroup], steps: Sequence[ConfigStep]) -> tuple[ChannelGroup, ...]:
    """Freeze the groups whose width no field of the configuration sets.

    Args:
        groups: The channel groups.
        steps: What can change in the configuration.

    Returns:
        All groups, in their order.

    Raises:
        RecipeError: The model has no configuration that sets widths.
    """
    if not steps:
        problem = "the model comes from no library whose configuration sets widths"
        raise RecipeError(
            "recipe-does-not-fit-the-model/no-configuration", "prune.widths", problem, "set prune.widths to free"
        )
    tied = {index for tie in ties_of(groups, steps) for index in tie}
    return tuple(
        group
        if index in tied or group.frozen
        else replace(group, frozen=Freeze("recipe", "no field of the configuration sets its width"))
        for index, group in enumerate(groups)
    )


def remove_in_steps(
    removed_G: IntArray,
    ties: Sequence[Tie],
    most_G: IntArray,
    unit_G: IntArray,
    fits: Callable[[IntArray], bool] | None,
) -> IntArray | None:
    """Remove whole steps from tied groups, about as much as a plan removes from each of them on average.

    Args:
        removed_G: Channels that the plan removes from each group, (G,).
        ties: The ties.
        most_G: The most channels that each group may lose, (G,).
        unit_G: Widths are multiples of it, (G,).
        fits: Whether removed channels meet the target; None keeps the average, rounded up.

    Returns:
        Channels to remove from each group; None where whole steps cannot meet the target.
    """
    most = [min(int(most_G[index]) // count for index, count in tie.items()) for tie in ties]
    stride = [
        math.lcm(*(int(unit_G[index]) // math.gcd(int(unit_G[index]), count) for index, count in tie.items()))
        for tie in ties
    ]
    wanted = [float(np.mean([removed_G[index] / count for index, count in tie.items()])) for tie in ties]
    steps = [
        min(math.ceil(mean / one) * one, limit // one * one)
        for mean, one, limit in zip(wanted, stride, most, strict=True)
    ]

    def removed(counts: Sequence[int]) -> IntArray:
        result_G = removed_G.copy()
        for tie, count in zip(ties, counts, strict=True):
            for index, channels in tie.items():
                result_G[index] = count * channels
        return result_G

    if fits is None:
        return removed(steps)
    while not fits(removed(steps)):
        wider = [place for place in range(len(ties)) if steps[place] + stride[place] <= most[place]]
        if not wider:
            return None
        place = min(wider, key=lambda place: steps[place] / most[place])
        steps[place] += stride[place]
    for place in sorted(range(len(ties)), key=lambda place: -steps[place] / max(1, most[place])):
        while steps[place] >= stride[place]:
            fewer = [*steps[:place], steps[place] - stride[place], *steps[place + 1 :]]
            if not fits(removed(fewer)):
                break
            steps = fewer
    return removed(steps)
