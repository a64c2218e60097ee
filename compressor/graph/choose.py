"""Scores and a target in, a plan out. Pure: nothing here touches a module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from compressor.core import ChannelGroup, Cost, LayerRule, PrunePlan, Selection
from compressor.errors import RecipeError, TargetNotReached
from compressor.graph.cost import CostModel

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class _Share:
    """What the recipe's rules say of a group."""

    group: ChannelGroup
    frozen: str | None
    ratio: float | None  # fixed by a rule


def choose(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray],
    selection: Selection,
    cost: CostModel,
    original: Cost,
) -> tuple[PrunePlan, tuple[ChannelGroup, ...]]:
    """The plan, and the groups with what the recipe's rules froze marked.

    Channels are put in one order of removal: by rank within the group over its size (scope local), or by score (scope
    global); ties go by index. The shortest run from the front that meets the target goes; channels at the end of the
    run come back where the target allows it. Widths are rounded up to multiples of `round_to`.

    Raises:
        RecipeError: a rule's glob matches no layer.
        TargetNotReached: removing all that can go leaves more than the target allows.
    """
    _check_globs(groups, selection.rules)
    shares = [_share(group, selection.rules) for group in groups]
    groups = tuple(
        group if group.frozen or not share.frozen else _freeze(group, share.frozen)
        for group, share in zip(groups, shares, strict=True)
    )
    fixed = {
        share.group.name: math.ceil(share.ratio * share.group.size)
        for share in shares
        if share.ratio is not None and share.group.frozen is None
    }
    free = [share.group for share in shares if share.frozen is None and share.ratio is None]
    free = [group for group in free if group.frozen is None]
    order = _order(free, scores, selection.scope)
    rounding = _Rounding(groups, selection.round_to)
    start = np.zeros(len(groups), dtype=np.int64)
    for index, group in enumerate(groups):
        start[index] = min(fixed.get(group.name, 0), group.size - 1)
    position = {group.name: index for index, group in enumerate(groups)}
    events = np.array([position[name] for name, _ in order], dtype=np.int64)
    if selection.ratio is not None:
        removed = start
        if selection.scope == "local":
            for group in free:
                removed[position[group.name]] = min(math.ceil(selection.ratio * group.size), group.size - 1)
        else:
            total = sum(group.size for group in free)
            np.add.at(removed, events[: min(math.ceil(selection.ratio * total), len(events))], 1)
        removed = rounding(removed)
    else:
        removed = _meet(start, events, rounding, selection, cost, original)
    kept = {
        group.name: _keep_top(scores[group.name], int(gone))
        for group, gone in zip(groups, removed, strict=True)
        if gone > 0
    }
    return PrunePlan(kept), groups


def _meet(
    start: IntArray, events: IntArray, rounding: _Rounding, selection: Selection, cost: CostModel, original: Cost
) -> IntArray:
    """Removed channels per group: the fewest, in order, for which every target holds."""

    def fits(removed: IntArray) -> bool:
        found = cost.cost(removed)
        macs_ok = selection.macs is None or found.macs <= selection.macs * original.macs
        return macs_ok and (selection.params is None or found.params <= selection.params * original.params)

    def first(count: int) -> IntArray:
        removed = start.copy()
        np.add.at(removed, events[:count], 1)
        return rounding(removed)

    low, high = 0, len(events)
    if not fits(first(high)):
        least = cost.cost(first(high))
        asked = {"macs": selection.macs, "params": selection.params}
        found = " and ".join(
            f"{name} {getattr(least, name) / getattr(original, name):.1%} at the least, asked for {share:.1%}"
            for name, share in asked.items()
            if share is not None
        )
        raise TargetNotReached(
            "target not reachable", "prune.target", found, "ask for more to remain, or free frozen layers (see inspect)"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(first(middle)) else (middle + 1, high)
    removed = first(low)
    for index in events[:low][::-1].tolist():  # give back what the last, coarse step took too much
        back = removed.copy()
        back[index] = rounding.one_less(index, int(removed[index]))
        if back[index] >= start[index] and fits(back):
            removed = back
    return removed


class _Rounding:
    """Kept widths as multiples of `round_to`, counted in the entries of the layer that writes the group."""

    def __init__(self, groups: Sequence[ChannelGroup], round_to: int) -> None:
        self._size = np.array([group.size for group in groups], dtype=np.int64)
        entries = [next((slot.positions.shape[1] for slot in group.writers()), 1) for group in groups]
        self._unit = np.array([round_to // math.gcd(round_to, each) for each in entries], dtype=np.int64)

    def __call__(self, removed: IntArray) -> IntArray:
        kept = self._size - removed
        rounded = np.minimum(-(-kept // self._unit) * self._unit, self._size)
        return np.where(removed > 0, self._size - rounded, 0)

    def one_less(self, index: int, removed: int) -> int:
        """The next smaller number of removed channels of a group that keeps the width rounded."""
        if removed == 0:
            return 0
        size, unit = int(self._size[index]), int(self._unit[index])
        return max(0, size - ((size - removed) // unit + 1) * unit)


def _order(groups: Sequence[ChannelGroup], scores: Mapping[str, FloatArray], scope: str) -> list[tuple[str, int]]:
    """All channels that may go, the first to go first; the best of every group is not among them."""
    keyed: list[tuple[float, int, int, str, int]] = []
    for number, group in enumerate(groups):
        ranking = np.argsort(scores[group.name], kind="stable")[:-1]
        for rank, channel in enumerate(ranking.tolist()):
            key = (rank + 1) / group.size if scope == "local" else float(scores[group.name][channel])
            keyed.append((key, number, rank, group.name, channel))
    return [(name, channel) for *_, name, channel in sorted(keyed)]


def _keep_top(scores: FloatArray, removed: int) -> BoolArray:
    kept = np.ones(len(scores), dtype=np.bool_)
    kept[np.argsort(scores, kind="stable")[:removed]] = False
    return kept


def _share(group: ChannelGroup, rules: Sequence[LayerRule]) -> _Share:
    """Any writer that a rule freezes freezes the group; else the first ratio a rule names counts."""
    matched = [rule for layer in _layers(group) for rule in [_first_match(layer, rules)] if rule is not None]
    frozen = next((f"frozen by the recipe (match: {rule.match})" for rule in matched if rule.freeze), None)
    return _Share(group, frozen, next((rule.ratio for rule in matched if rule.ratio is not None), None))


def _first_match(layer: str, rules: Sequence[LayerRule]) -> LayerRule | None:
    return next((rule for rule in rules if _matches(layer, rule.match)), None)


def _matches(layer: str, glob: str) -> bool:
    """A glob matches a layer by its own name or by the name of a module around it."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[:length]), glob) for length in range(len(parts), 0, -1))


def _layers(group: ChannelGroup) -> list[str]:
    return list(dict.fromkeys(slot.tensor.rpartition(".")[0] for slot in group.writers()))


def _freeze(group: ChannelGroup, reason: str) -> ChannelGroup:
    return ChannelGroup(group.name, group.size, group.slots, reason)


def _check_globs(groups: Sequence[ChannelGroup], rules: Sequence[LayerRule]) -> None:
    layers = [layer for group in groups for layer in _layers(group)]
    faults = []
    for rule in rules:
        if not any(_matches(layer, rule.match) for layer in layers):
            near = get_close_matches(rule.match, layers, n=3, cutoff=0.0)
            faults.append(
                RecipeError(
                    "recipe does not fit the model",
                    "prune.layers",
                    f"match {rule.match!r} names no layer",
                    f"use a glob on names such as {', '.join(near) or 'those inspect lists'}",
                )
            )
    if faults:
        raise RecipeError(faults[0].what, faults[0].where, faults[0].found, faults[0].todo, more=tuple(faults[1:]))
