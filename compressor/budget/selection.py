"""Scores and a target in, a plan out. Pure: nothing here touches a module.

G groups, C channels of one. `removed_G` counts the channels that go from each group; which ones, the scores say.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from compressor.budget.greedy import Budget, greedy_allocate
from compressor.budget.layer_rules import LayerRule, apply_freeze_rules, layer_ratio
from compressor.budget.rounding import Rounding, fewest_removed, removed_after
from compressor.budget.target import PruningTarget, Scope
from compressor.core import ChannelGroup, Cost, PrunePlan
from compressor.errors import RecipeError, TargetNotReached
from compressor.graph.cost import CostModel

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray, IntArray


LEVEL = 0.25  # share of its first channels below which a layer is hardly the same layer any more


def select_channels(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray],
    selection: PruningTarget,
    cost: CostModel,
    original: Cost,
    limits: Sequence[Budget] = (),
    preferred_multiples: Callable[[Sequence[ChannelGroup], int], IntArray] | None = None,
    *,
    gone: Mapping[str, int] = MappingProxyType({}),
) -> tuple[PrunePlan, tuple[ChannelGroup, ...]]:
    """The plan, and the groups with those marked that the recipe froze. `limits` hold beside the selection's shares.

    `gone`: channels that groups have lost before, and those that are none any more, with one channel left; ratios are
    shares of what they had at first.

    With `preferred_multiples`, what the device prefers (see LatencyModel), and scope local, groups lose channels as
    `greedy_allocate` says, and keep a quarter of them as long as that is enough. Groups without scores stay whole. In
    all other cases:

    channels are put in one order of removal: by rank within the group over its size (scope local), by score (scope
    global), or by rank among the channels of all groups made alike over their number (scope isomorphic: Fang et al.,
    Isomorphic Pruning for Vision Models, ECCV 2024, arXiv:2407.04616); ties go by index. The shortest run from the
    front that meets the target goes; channels at its end come back where the target allows it. Widths are rounded
    up to multiples of `round_to`; where that is too coarse and the selection allows finer steps, of half of it, and so
    on. Too coarse is what misses the target, or cuts less than half of the channels that a ratio asks for.

    Raises:
        RecipeError: a rule's glob matches no layer, or a share is asked of what was not counted.
        TargetNotReached: removing all that can go leaves more than the target allows.
    """
    groups = _scored(apply_freeze_rules(groups, selection.rules), scores)
    asked = [None if group.frozen else layer_ratio(group, selection.rules) for group in groups]
    gone_G = np.array([gone.get(group.name, 0) for group in groups], dtype=np.int64)
    least_G = _least(groups, gone_G, selection.min_keep_ratio)
    start_G = _shares(groups, asked, gone_G, least_G)
    free = [index for index, group in enumerate(groups) if group.frozen is None and asked[index] is None]
    order = _order(groups, free, scores, selection.scope, least_G)
    narrow = [lost for name, lost in gone.items() if name not in {group.name for group in groups}]
    by_ratio = None
    if selection.ratio is not None:
        by_ratio = _by_ratio(groups, free, start_G, order, selection, gone_G, least_G, narrow)
    removed_G, round_to = np.zeros_like(start_G), selection.round_to
    bounds = [*_limits(selection, cost, original), *limits]
    fits = _fitting(bounds)
    while True:
        rounding = Rounding(groups, round_to)
        if by_ratio is None and preferred_multiples is not None and selection.allocates_per_layer:
            free_G = np.isin(np.arange(len(groups)), free)
            unit_G = preferred_multiples(groups, round_to) if selection.allow_finer_rounding else rounding.unit_G
            level_G = np.maximum(least_G, _least(groups, gone_G, LEVEL))
            removed_G = greedy_allocate(groups, scores, start_G, free_G, unit_G, bounds, level_G)
            if not fits(removed_G):  # some layer has to keep less
                removed_G = greedy_allocate(groups, scores, start_G, free_G, unit_G, bounds)
            enough = fits(removed_G)
        elif by_ratio is None:
            removed_G = fewest_removed(start_G, order, rounding, fits)
            enough = fits(removed_G)
        else:
            removed_G = rounding(by_ratio)
            enough = bool(2 * removed_G.sum() >= by_ratio.sum())
        if enough or round_to == 1 or not selection.allow_finer_rounding:
            break
        round_to //= 2
    if by_ratio is None and not enough:
        raise _out_of_reach(bounds, removed_G)
    kept = {
        group.name: _keep_best(scores[group.name], gone)
        for group, gone in zip(groups, removed_G.tolist(), strict=True)
        if gone
    }
    return PrunePlan(kept, round_to), groups


def _scored(groups: Sequence[ChannelGroup], scores: Mapping[str, FloatArray]) -> tuple[ChannelGroup, ...]:
    """The groups, with those frozen that the criterion has no score for."""
    return tuple(
        each if each.frozen or each.name in scores else replace(each, frozen="no score: nothing scales its channels")
        for each in groups
    )


def _by_ratio(
    groups: Sequence[ChannelGroup],
    free: Sequence[int],
    start_G: IntArray,
    order: IntArray,
    selection: PruningTarget,
    gone_G: IntArray,
    least_G: IntArray,
    narrow: Sequence[int],
) -> IntArray:
    """Channels that go for a ratio: of each free group, or of all of them together and those that are `narrow` now."""
    assert selection.ratio is not None
    if selection.scope != "local":
        before = int(gone_G[list(free)].sum()) + sum(narrow)
        whole = sum(groups[index].size for index in free) + len(narrow) + before
        return removed_after(start_G, order[: max(0, math.ceil(selection.ratio * whole) - before)])
    asked = [selection.ratio if index in free else None for index in range(len(groups))]
    return np.where(np.isin(np.arange(len(groups)), free), _shares(groups, asked, gone_G, least_G), start_G)


def _least(groups: Sequence[ChannelGroup], gone_G: IntArray, floor: float) -> IntArray:
    """Channels that groups keep whatever they are worth: floor(share * C) of those they had at first, at least one."""
    sizes_G = np.array([group.size for group in groups], dtype=np.int64)
    return np.minimum(sizes_G, np.maximum(1, ((sizes_G + gone_G) * floor + 1e-9).astype(np.int64)))


def _shares(
    groups: Sequence[ChannelGroup], ratios: Sequence[float | None], gone_G: IntArray, least_G: IntArray
) -> IntArray:
    """ceil(ratio * C) of the channels a group had at first, the float product taken literally, and never all."""

    def share(group: ChannelGroup, ratio: float | None, gone: int, least: int) -> int:
        if ratio is None:
            return 0
        return min(max(0, math.ceil(ratio * (group.size + gone)) - gone), group.size - least)

    each_G = zip(groups, ratios, gone_G.tolist(), least_G.tolist(), strict=True)
    return np.array([share(*each) for each in each_G], dtype=np.int64)


def _order(
    groups: Sequence[ChannelGroup],
    free: Sequence[int],
    scores: Mapping[str, FloatArray],
    scope: Scope,
    least_G: IntArray,
) -> IntArray:
    """The group each next channel is taken from; the best `least` channels of every group are never taken."""
    pools: dict[object, list[tuple[float, int, int]]] = defaultdict(list)  # channels that are compared with each other
    for index in free:
        pool = {"local": index, "global": None, "isomorphic": _make(groups[index])}[scope]
        ranked = np.sort(scores[groups[index].name]).tolist()
        pools[pool] += [(score, index, rank) for rank, score in enumerate(ranked)]
    keyed = [
        ((place + 1) / len(pool), index, rank)
        for pool in pools.values()
        for place, (_, index, rank) in enumerate(sorted(pool))
        if rank < groups[index].size - least_G[index]
    ]
    return np.array([index for _, index, _ in sorted(keyed)], dtype=np.int64)


def _make(group: ChannelGroup) -> tuple[tuple[str, str, int, int], ...]:
    """What a group is made of, whatever its width: kinds of tensors, their dimensions, entries per channel."""
    return tuple(
        sorted((slot.role, slot.tensor.rpartition(".")[2], slot.dim, slot.positions.shape[1]) for slot in group.slots)
    )


def clamped_groups(scores: Mapping[str, FloatArray], plan: PrunePlan) -> list[str]:
    """Groups whose last channel stays although a better one of another group goes: they would have been emptied."""
    gone = {name: scores[name][~kept].max() for name, kept in plan.kept.items()}
    return [
        name
        for name, kept in plan.kept.items()
        if kept.sum() == 1 and any(scores[name][kept].max() < best for other, best in gone.items() if other != name)
    ]


def plan_from_widths(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray],
    widths: Mapping[str, int],
    rules: Sequence[LayerRule],
) -> tuple[PrunePlan, tuple[ChannelGroup, ...]]:
    """The plan that keeps so many channels of these groups, as `select_channels` would have given it."""
    groups = _scored(apply_freeze_rules(groups, rules), scores)
    sizes = {group.name: group.size for group in groups}
    if not widths.keys() <= sizes.keys():
        problem = "the saved widths belong to other groups"
        raise TargetNotReached(
            "target-not-reachable/other-groups", "prune.target", problem, "start over without --resume"
        )
    kept = {name: _keep_best(scores[name], sizes[name] - width) for name, width in widths.items()}
    return PrunePlan(kept), groups


def _limits(selection: PruningTarget, cost: CostModel, original: Cost) -> list[Budget]:
    """At most so much of the original's multiply-adds, parameters, weights and nodes."""

    def limit(name: str, share: float) -> Budget:
        def value(removed_MG: IntArray) -> FloatArray:
            return np.array([getattr(cost.cost(removed_G), name) for removed_G in removed_MG], dtype=np.float64)

        whole = getattr(original, name)
        if not whole:
            problem = f"the {name} of the original model are unknown, because an earlier version wrote the folder"
            raise RecipeError(
                "recipe-does-not-fit-the-model/unknown-original-cost",
                f"prune.target.{name}",
                problem,
                "set a target for params or macs",
            )
        return Budget(name, value, share * whole, whole)

    asked = [(name, getattr(selection, name)) for name in ("macs", "params", "weights", "nodes")]
    return [limit(name, share) for name, share in asked if share is not None]


def _fitting(limits: Sequence[Budget]) -> Callable[[IntArray], bool]:
    """Whether every limit holds after removing so many channels from each group."""
    return lambda removed_G: all(float(limit.value(removed_G[None])[0]) <= limit.limit for limit in limits)


def _out_of_reach(limits: Sequence[Budget], least_G: IntArray) -> TargetNotReached:
    found = " and ".join(
        f"{limit.name} cannot be reduced below {float(limit.value(least_G[None])[0]) / limit.baseline:.1%}, "
        f"the target is {limit.limit / limit.baseline:.1%}"
        for limit in limits
    )
    hint = "raise the target, set prune.round_to: 1, or unfreeze layers (see compress inspect)"
    return TargetNotReached("target-not-reachable/beyond-maximum", "prune.target", found, hint)


def _keep_best(scores_C: FloatArray, removed: int) -> BoolArray:
    kept_C = np.ones(len(scores_C), dtype=np.bool_)
    kept_C[np.argsort(scores_C, kind="stable")[:removed]] = False
    return kept_C
