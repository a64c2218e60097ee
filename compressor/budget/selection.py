"""Scores and a target in, a plan out. Pure: nothing here touches a module.

G groups, C channels of one group. `removed_G` counts the channels to remove from each group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from compressor.budget.allocation_problem import AllocationProblem
from compressor.budget.error_allocation import allocate_by_error
from compressor.budget.greedy import Budget, greedy_allocate
from compressor.budget.layer_rules import LayerRule, apply_freeze_rules
from compressor.budget.removal_order import removal_order
from compressor.budget.rounding import Rounding, fewest_removed, removed_after
from compressor.budget.target import COSTS, PruningTarget
from compressor.budget.ties import freeze_untied, remove_in_steps, ties_of
from compressor.core import ChannelGroup, ConfigStep, Cost, ErrorCurves, Freeze, PrunePlan
from compressor.errors import RecipeError, TargetNotReached
from compressor.graph.cost import CostModel

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray, IntArray


LEAST_USAGE = 0.8  # share of a budget that rounded widths use, where finer ones are allowed
MIN_KEPT_SHARE = 0.25  # share of its original channels that a layer keeps as long as the target allows it
MIN_KEPT_SHARE_BY_ERROR = 1 / 8  # the same with scope error

PreferredMultiples = Callable[[Sequence[ChannelGroup], int], "IntArray"]
"""(groups, round_to) -> the multiples that the target device rewards, (G,)."""
Allocate = Callable[[Rounding], tuple["IntArray", bool]]
"""Kept widths are rounded by it -> channels to remove from each group, (G,), and whether that is enough."""


def select_channels(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray],
    target: PruningTarget,
    cost: CostModel,
    original: Cost,
    budgets: Sequence[Budget] = (),
    preferred_multiples: PreferredMultiples | None = None,
    *,
    removed_before: Mapping[str, int] = MappingProxyType({}),
    errors: ErrorCurves | None = None,
    config_steps: Sequence[ConfigStep] = (),
) -> tuple[PrunePlan, tuple[ChannelGroup, ...]]:
    """Select the channels to remove.

    With scope error, `allocate_by_error` finds the widths for any target but a ratio; groups keep an eighth of their
    channels as long as that is enough, because curves are measured at half.

    With `preferred_multiples` and scope local, a latency target is allocated by `greedy_allocate`; groups keep a
    quarter of their channels as long as that is enough. In all other cases channels are put in one order, see
    `removal_order`; the shortest prefix that meets the target is removed, and channels at its end return where the
    target allows it.

    Kept widths are rounded up to multiples of `round_to`. Where that misses the target, removes less than half of what
    a ratio asks for, or leaves a fifth of every budget unused, and the target allows finer steps, `round_to` is halved.
    Groups without scores keep all channels.

    Args:
        groups: The channel groups, G of them.
        scores: Group name -> score of each channel, (C,).
        target: The target and the policy.
        cost: Predicts the cost of a plan.
        original: Cost of the original model, which shares refer to.
        budgets: Budgets that hold beside the shares of `target`.
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
    groups = _scored(apply_freeze_rules(groups, target.rules), scores)
    if target.config_widths:
        groups = freeze_untied(groups, config_steps)
    budgets = [*_budgets(target, cost, original), *budgets]
    problem = AllocationProblem.of(groups, scores, target, budgets, removed_before)
    if target.ratio is not None:
        allocate: Allocate = partial(_rounded, _by_ratio(problem, target, removed_before))
    elif preferred_multiples is not None and target.allocates_per_layer:
        allocate = partial(_per_layer, problem, target, preferred_multiples)
    elif target.scope == "error":
        allocate = partial(_by_error, problem, target, preferred_multiples, _error_curves(groups, scores, errors))
    else:
        allocate = partial(_in_order, problem, removal_order(problem, target.scope))
    rounding = Rounding(groups, target.round_to)
    removed_G, is_enough = allocate(rounding)
    while rounding.round_to > 1 and target.allow_finer_rounding:
        if is_enough and problem.usage(removed_G) >= LEAST_USAGE:
            break
        rounding = Rounding(groups, rounding.round_to // 2)
        removed_G, is_enough = allocate(rounding)
    if target.ratio is None and not is_enough:
        raise _not_reachable(budgets, removed_G)
    if ties := [tie for tie in ties_of(groups, config_steps) if set(tie) <= set(problem.free)]:
        most_G = np.array([group.size for group in groups]) - problem.least_G
        fits = problem.fits if target.ratio is None else None
        in_steps_G = remove_in_steps(removed_G, ties, most_G, rounding.unit_G, fits)
        removed_G = removed_G if in_steps_G is None else in_steps_G
    kept = {
        group.name: _keep_best(scores[group.name], removed)
        for group, removed in zip(groups, removed_G.tolist(), strict=True)
        if removed
    }
    return PrunePlan(kept, rounding.round_to), groups


def _by_ratio(problem: AllocationProblem, target: PruningTarget, removed_before: Mapping[str, int]) -> IntArray:
    """The channels that are a share of each free group, or of all of them together, (G,)."""
    assert target.ratio is not None
    if target.scope == "local":
        return problem.shares(target.ratio)
    names = {group.name for group in problem.groups}
    narrow = [count for name, count in removed_before.items() if name not in names]  # reduced to one channel
    before = int(problem.before_G[problem.free].sum()) + sum(narrow)
    total = sum(problem.groups[index].size for index in problem.free) + len(narrow) + before
    order = removal_order(problem, target.scope)
    return removed_after(problem.start_G, order[: max(0, math.ceil(target.ratio * total) - before)])


def _rounded(exact_G: IntArray, rounding: Rounding) -> tuple[IntArray, bool]:
    """Remove as many channels as rounded widths allow; at least half of them is enough."""
    removed_G = rounding(exact_G)
    return removed_G, bool(2 * removed_G.sum() >= exact_G.sum())


def _per_layer(
    problem: AllocationProblem, target: PruningTarget, preferred_multiples: PreferredMultiples, rounding: Rounding
) -> tuple[IntArray, bool]:
    """Remove where that gains most time for the least score; below MIN_KEPT_SHARE only where the budgets need it."""
    unit_G = _unit(problem, target, preferred_multiples, rounding)
    start = problem.groups, problem.scores, problem.start_G, problem.free_G, unit_G, problem.budgets
    removed_G = greedy_allocate(*start, problem.fewest_kept(MIN_KEPT_SHARE))
    if problem.fits(removed_G):
        return removed_G, True
    removed_G = greedy_allocate(*start, problem.least_G)
    return removed_G, problem.fits(removed_G)


def _by_error(
    problem: AllocationProblem,
    target: PruningTarget,
    preferred_multiples: PreferredMultiples | None,
    curves: Sequence[FloatArray],
    rounding: Rounding,
) -> tuple[IntArray, bool]:
    """Remove what changes the answers least; below MIN_KEPT_SHARE_BY_ERROR only where the budgets need it."""
    unit_G = _unit(problem, target, preferred_multiples, rounding)
    start = curves, problem.start_G, problem.free_G, unit_G, problem.budgets
    allocation = allocate_by_error(*start, problem.fewest_kept(MIN_KEPT_SHARE_BY_ERROR))
    if not allocation.feasible:
        allocation = allocate_by_error(*start, problem.least_G)
    return allocation.removed_G, allocation.feasible


def _in_order(problem: AllocationProblem, order: IntArray, rounding: Rounding) -> tuple[IntArray, bool]:
    """Remove the shortest prefix of one order that meets the budgets."""
    removed_G = fewest_removed(problem.start_G, order, rounding, problem.fits)
    return removed_G, problem.fits(removed_G)


def _unit(
    problem: AllocationProblem,
    target: PruningTarget,
    preferred_multiples: PreferredMultiples | None,
    rounding: Rounding,
) -> IntArray:
    """The multiples of kept widths, (G,): the device's where the recipe leaves them to it."""
    if preferred_multiples is None or not target.allow_finer_rounding:
        return rounding.unit_G
    return preferred_multiples(problem.groups, rounding.round_to)


def _scored(groups: Sequence[ChannelGroup], scores: Mapping[str, FloatArray]) -> tuple[ChannelGroup, ...]:
    """Freeze the groups that the criterion has no score for."""
    return tuple(
        group
        if group.frozen or group.name in scores
        else replace(group, frozen=Freeze("criterion", "no score: nothing scales its channels"))
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


def _budgets(target: PruningTarget, cost: CostModel, original: Cost) -> list[Budget]:
    """The budgets of multiply-adds, parameters, weights and nodes, as shares of the original's."""
    budgets = []
    for name in COSTS:
        share, baseline = getattr(target, name), getattr(original, name)
        if share is None:
            continue
        if not baseline:
            problem = f"no layer of the model has {name}"
            if getattr(cost.of(PrunePlan({})), name):
                problem = f"the {name} of the original model are unknown, because an earlier version wrote the folder"
            raise RecipeError(
                "recipe-does-not-fit-the-model/unknown-original-cost",
                f"prune.target.{name}",
                problem,
                "set a target for params or macs",
            )
        budgets.append(Budget(name, partial(cost.many, name), share * baseline, baseline))
    return budgets


def _not_reachable(budgets: Sequence[Budget], least_G: IntArray) -> TargetNotReached:
    problem = " and ".join(
        f"{budget.name} cannot be reduced below {float(budget.value(least_G[None])[0]) / budget.baseline:.1%}, "
        f"the target is {budget.limit / budget.baseline:.1%}"
        for budget in budgets
    )
    hint = "raise the target, set prune.round_to: 1, or unfreeze layers (see compress inspect)"
    return TargetNotReached("target-not-reachable/beyond-maximum", "prune.target", problem, hint)


def _keep_best(scores_C: FloatArray, removed: int) -> BoolArray:
    kept_C = np.ones(len(scores_C), dtype=np.bool_)
    kept_C[np.argsort(scores_C, kind="stable")[:removed]] = False
    return kept_C
