"""Scores and a target in, a plan out. Pure: nothing here touches a module.

G groups, C channels of one group. `removed_G` counts the channels to remove from each group.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

from compressor.budget.error_allocation import allocate_by_error
from compressor.budget.greedy import Budget, greedy_allocate
from compressor.budget.layer_rules import LayerRule, apply_freeze_rules, layer_ratio
from compressor.budget.rounding import Rounding, fewest_removed, removed_after
from compressor.budget.target import PruningTarget, Scope
from compressor.budget.ties import freeze_untied, remove_in_steps, ties_of
from compressor.core import ChannelGroup, ConfigStep, Cost, ErrorCurves, PrunePlan
from compressor.errors import RecipeError, TargetNotReached
from compressor.graph.cost import CostModel

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray, IntArray


BUDGETED: tuple[Literal["macs", "params", "weights", "nodes"], ...] = ("macs", "params", "weights", "nodes")
ERROR_LEVEL = 1 / 8
LEVEL = 0.25  # share of its original channels that a layer keeps as long as the target allows it


def select_channels(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray],
    selection: PruningTarget,
    cost: CostModel,
    original: Cost,
    limits: Sequence[Budget] = (),
    preferred_multiples: Callable[[Sequence[ChannelGroup], int], IntArray] | None = None,
    *,
    removed_before: Mapping[str, int] = MappingProxyType({}),
    errors: ErrorCurves | None = None,
    config_steps: Sequence[ConfigStep] = (),
) -> tuple[PrunePlan, tuple[ChannelGroup, ...]]:
    """Select the channels to remove.

    With scope error, `allocate_by_error` finds the widths for any target but a ratio; groups keep an eighth of their
    channels as long as that is enough, because curves are measured at half.

    With `preferred_multiples` and scope local, a latency target is allocated by `greedy_allocate`; groups keep a
    quarter of their channels as long as that is enough. In all other cases channels are put in one order of removal:

    - scope local: by rank within the group over its size;
    - scope global: by score;
    - scope isomorphic: by rank among the channels of all groups of the same structure over their number (Fang et al.,
      Isomorphic Pruning for Vision Models, ECCV 2024, arXiv:2407.04616).

    Ties are broken by index. The shortest prefix that meets the target is removed; channels at its end return where the
    target allows it. Kept widths are rounded up to multiples of `round_to`. Where that misses the target, or removes
    less than half of what a ratio asks for, and the target allows finer steps, `round_to` is halved. Groups without
    scores keep all channels.

    Args:
        groups: The channel groups, G of them.
        scores: Group name -> score of each channel, (C,).
        selection: The target and the policy.
        cost: Predicts the cost of a plan.
        original: Cost of the original model, which shares refer to.
        limits: Budgets that hold beside the shares of `selection`.
        preferred_multiples: (groups, round_to) -> the multiples that the target device rewards, (G,).
        removed_before: Channels removed in earlier rounds, including groups reduced to one channel. Ratios are shares
            of the original widths.
        errors: Predicted divergence by group and width, for scope error; None = the sum of the removed scores.
        config_steps: What a library's configuration can set: groups of one field lose channels together, where the
            target allows it.

    Returns:
        The plan, and all groups, with those frozen that the recipe freezes.

    Raises:
        RecipeError: A rule's glob matches no layer, or a share refers to a cost that was not counted.
        TargetNotReached: Removing every prunable channel leaves more than the target allows.
    """
    groups = _scored(apply_freeze_rules(groups, selection.rules), scores)
    if selection.config_widths:
        groups = freeze_untied(groups, config_steps)
    ratios = [None if group.frozen else layer_ratio(group, selection.rules) for group in groups]
    before_G = np.array([removed_before.get(group.name, 0) for group in groups], dtype=np.int64)
    least_G = _fewest_kept(groups, before_G, selection.min_keep_ratio)
    start_G = _shares(groups, ratios, before_G, least_G)
    free = [index for index, group in enumerate(groups) if group.frozen is None and ratios[index] is None]
    order = _order(groups, free, scores, selection.scope, least_G)
    narrow = [count for name, count in removed_before.items() if name not in {group.name for group in groups}]
    by_ratio = None
    if selection.ratio is not None:
        by_ratio = _by_ratio(groups, free, start_G, order, selection, before_G, least_G, narrow)
    removed_G, round_to = np.zeros_like(start_G), selection.round_to
    bounds = [*_budgets(selection, cost, original), *limits]
    fits = _fitting(bounds)
    while True:
        rounding = Rounding(groups, round_to)
        if by_ratio is None and preferred_multiples is not None and selection.allocates_per_layer:
            free_G = np.isin(np.arange(len(groups)), free)
            unit_G = preferred_multiples(groups, round_to) if selection.allow_finer_rounding else rounding.unit_G
            level_G = np.maximum(least_G, _fewest_kept(groups, before_G, LEVEL))
            removed_G = greedy_allocate(groups, scores, start_G, free_G, unit_G, bounds, level_G)
            if not fits(removed_G):  # some layer has to keep less
                removed_G = greedy_allocate(groups, scores, start_G, free_G, unit_G, bounds)
            enough = fits(removed_G)
        elif by_ratio is None and selection.scope == "error":
            free_G = np.isin(np.arange(len(groups)), free)
            unit_G = rounding.unit_G
            if preferred_multiples is not None and selection.allow_finer_rounding:
                unit_G = preferred_multiples(groups, round_to)
            curves = _error_curves(groups, scores, errors)
            level_G = np.maximum(least_G, _fewest_kept(groups, before_G, ERROR_LEVEL))
            for fewest_G in (level_G, least_G):
                allocation = allocate_by_error(curves, start_G, free_G, unit_G, bounds, fewest_G)
                removed_G, enough = allocation.removed_G, allocation.feasible
                if enough:
                    break
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
        raise _not_reachable(bounds, removed_G)
    if ties := [tie for tie in ties_of(groups, config_steps) if set(tie) <= set(free)]:
        most_G = np.array([group.size for group in groups]) - least_G
        unit_G, limit = Rounding(groups, round_to).unit_G, fits if by_ratio is None else None
        in_steps_G = remove_in_steps(removed_G, ties, most_G, unit_G, limit)
        removed_G = removed_G if in_steps_G is None else in_steps_G
    kept = {
        group.name: _keep_best(scores[group.name], removed)
        for group, removed in zip(groups, removed_G.tolist(), strict=True)
        if removed
    }
    return PrunePlan(kept, round_to), groups


def _scored(groups: Sequence[ChannelGroup], scores: Mapping[str, FloatArray]) -> tuple[ChannelGroup, ...]:
    """Freeze the groups that the criterion has no score for."""
    return tuple(
        group
        if group.frozen or group.name in scores
        else replace(group, frozen="no score: nothing scales its channels")
        for group in groups
    )


def _error_curves(
    groups: Sequence[ChannelGroup], scores: Mapping[str, FloatArray], errors: ErrorCurves | None
) -> list[FloatArray]:
    """Predicted divergence of each group after 0 to C - 1 removals, (C,)."""
    curves = []
    for group in groups:
        if errors is not None and group.name in errors.curves:
            curves.append(errors.curves[group.name].weighted)
        else:
            ranked = np.sort(scores[group.name]) if group.name in scores else np.zeros(group.size)
            curves.append(np.concatenate([[0.0], ranked.cumsum()[:-1]]))
    return curves


def _by_ratio(
    groups: Sequence[ChannelGroup],
    free: Sequence[int],
    start_G: IntArray,
    order: IntArray,
    selection: PruningTarget,
    before_G: IntArray,
    least_G: IntArray,
    narrow: Sequence[int],
) -> IntArray:
    """Channels to remove for a ratio: from each free group, or from all free and `narrow` groups together."""
    assert selection.ratio is not None
    if selection.scope != "local":
        before = int(before_G[list(free)].sum()) + sum(narrow)
        total = sum(groups[index].size for index in free) + len(narrow) + before
        return removed_after(start_G, order[: max(0, math.ceil(selection.ratio * total) - before)])
    ratios = [selection.ratio if index in free else None for index in range(len(groups))]
    return np.where(np.isin(np.arange(len(groups)), free), _shares(groups, ratios, before_G, least_G), start_G)


def _fewest_kept(groups: Sequence[ChannelGroup], before_G: IntArray, floor: float) -> IntArray:
    """The fewest channels that groups keep: floor(share * C) of their original ones, at least one."""
    sizes_G = np.array([group.size for group in groups], dtype=np.int64)
    return np.minimum(sizes_G, np.maximum(1, ((sizes_G + before_G) * floor + 1e-9).astype(np.int64)))


def _shares(
    groups: Sequence[ChannelGroup], ratios: Sequence[float | None], before_G: IntArray, least_G: IntArray
) -> IntArray:
    """ceil(ratio * C) of the original channels, the float product taken literally, and never all of them."""
    counts = [
        0 if ratio is None else min(max(0, math.ceil(ratio * (group.size + before)) - before), group.size - least)
        for group, ratio, before, least in zip(groups, ratios, before_G.tolist(), least_G.tolist(), strict=True)
    ]
    return np.array(counts, dtype=np.int64)


def _order(
    groups: Sequence[ChannelGroup],
    free: Sequence[int],
    scores: Mapping[str, FloatArray],
    scope: Scope,
    least_G: IntArray,
) -> IntArray:
    """The group that each next channel is removed from; the best `least` channels of a group are never removed."""
    pools: dict[object, list[tuple[float, int, int]]] = defaultdict(list)  # channels that are compared with each other
    for index in free:
        pool = {"local": index, "global": None, "error": None, "isomorphic": _structure(groups[index])}[scope]
        ranked = np.sort(scores[groups[index].name]).tolist()
        pools[pool] += [(score, index, rank) for rank, score in enumerate(ranked)]
    keyed = [
        ((place + 1) / len(pool), index, rank)
        for pool in pools.values()
        for place, (_, index, rank) in enumerate(sorted(pool))
        if rank < groups[index].size - least_G[index]
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


def plan_from_widths(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray],
    widths: Mapping[str, int],
    rules: Sequence[LayerRule],
) -> tuple[PrunePlan, tuple[ChannelGroup, ...]]:
    """Build the plan that keeps so many channels of each group, as `select_channels` would.

    Args:
        groups: The channel groups.
        scores: Group name -> score of each channel, (C,).
        widths: Group name -> number of channels to keep.
        rules: The recipe's rules for layers.

    Returns:
        The plan, and all groups, with those frozen that the recipe freezes.

    Raises:
        TargetNotReached: A width belongs to none of the groups.
    """
    groups = _scored(apply_freeze_rules(groups, rules), scores)
    sizes = {group.name: group.size for group in groups}
    if not widths.keys() <= sizes.keys():
        problem = "the saved widths belong to other groups"
        raise TargetNotReached(
            "target-not-reachable/other-groups", "prune.target", problem, "start over without --resume"
        )
    kept = {name: _keep_best(scores[name], sizes[name] - width) for name, width in widths.items()}
    return PrunePlan(kept), groups


def _budgets(selection: PruningTarget, cost: CostModel, original: Cost) -> list[Budget]:
    """The budgets of multiply-adds, parameters, weights and nodes, as shares of the original's."""
    budgets = []
    for name in BUDGETED:
        share, baseline = getattr(selection, name), getattr(original, name)
        if share is None:
            continue
        if not baseline:
            problem = f"the {name} of the original model are unknown, because an earlier version wrote the folder"
            raise RecipeError(
                "recipe-does-not-fit-the-model/unknown-original-cost",
                f"prune.target.{name}",
                problem,
                "set a target for params or macs",
            )
        budgets.append(Budget(name, partial(cost.many, name), share * baseline, baseline))
    return budgets


def _fitting(limits: Sequence[Budget]) -> Callable[[IntArray], bool]:
    """A function that tests whether every limit holds after removing so many channels from each group."""
    return lambda removed_G: all(float(limit.value(removed_G[None])[0]) <= limit.limit for limit in limits)


def _not_reachable(limits: Sequence[Budget], least_G: IntArray) -> TargetNotReached:
    problem = " and ".join(
        f"{limit.name} cannot be reduced below {float(limit.value(least_G[None])[0]) / limit.baseline:.1%}, "
        f"the target is {limit.limit / limit.baseline:.1%}"
        for limit in limits
    )
    hint = "raise the target, set prune.round_to: 1, or unfreeze layers (see compress inspect)"
    return TargetNotReached("target-not-reachable/beyond-maximum", "prune.target", problem, hint)


def _keep_best(scores_C: FloatArray, removed: int) -> BoolArray:
    kept_C = np.ones(len(scores_C), dtype=np.bool_)
    kept_C[np.argsort(scores_C, kind="stable")[:removed]] = False
    return kept_C
