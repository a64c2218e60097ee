"""What other targets would cost by the error curves of a plan, and whether a gate is at risk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compressor.budget.memory import memory_budgets
from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.errors import TargetNotReached
from compressor.recipe import Recipe
from compressor.report.plan_result import SofterTarget
from compressor.steps.state import PruningState

STEPS = (0.25, 0.5)
"""Shares of the way from the target to the dense model."""


def softer_targets(baseline: PruningState, state: PruningState, recipe: Recipe, round_to: int) -> list[SofterTarget]:
    """Allocate by the same curves for targets that remove less.

    Args:
        baseline: The state before the first step.
        state: The state after the selection.
        recipe: The recipe.
        round_to: What widths are multiples of.

    Returns:
        One entry for each target; none where channels are not selected by error, for time alone, or where blocks were
        dropped, whose loss the curves do not hold.
    """
    target = recipe.pruning_target(round_to)
    shares = target.shares
    if state.errors is None or not shares or target.has_latency_target or state.selections > 1 or state.lost_blocks:
        return []
    results: list[SofterTarget] = []
    for step in STEPS:
        softer: dict[str, Any] = {name: share + step * (1 - share) for name, share in shares.items()}
        removed = _removed(baseline, state, replace(target, **softer))
        if removed is not None:
            divergence = state.errors.divergence(removed)
            agreement = state.errors.agreement(divergence)
            text = ", ".join(f"{name} {share:.0%}" for name, share in softer.items())
            results.append(
                {"target": text, "divergence": divergence, "agreement": None if agreement is None else 100 * agreement}
            )
    return results


def agreement_at_risk(recipe: Recipe, state: PruningState, softer: list[SofterTarget]) -> str | None:
    """Say that the curves predict less agreement than a gate requires.

    Args:
        recipe: Its gate of the agreement, if it has one.
        state: The state after the selection.
        softer: Predictions for softer targets.

    Returns:
        A sentence with the nearest target that holds; None where nothing is at risk.
    """
    required = recipe.gates.agreement
    if required is None or state.errors is None:
        return None
    predicted = state.errors.agreement(state.errors.divergence(state.errors.removed))
    if predicted is None or 100 * predicted >= required:
        return None
    problem = f"gates.agreement requires {required:g} %, the curves predict {100 * predicted:.1f} % before any training"
    holds = next((entry for entry in softer if entry["agreement"] is not None and entry["agreement"] >= required), None)
    if holds is not None:
        return f"{problem}; {holds['target']} is predicted to hold"
    return f"{problem}; set a higher target, or let training recover the rest"


def _removed(baseline: PruningState, state: PruningState, target: PruningTarget) -> dict[str, int] | None:
    """Channels that a target removes from each group by the curves; None where it cannot be reached."""
    assert state.errors is not None
    graph, cost = baseline.baseline.graph, baseline.baseline.cost
    if {group.name for group in graph.groups} < state.errors.curves.keys():
        return None
    scores = {name: curve.weighted for name, curve in state.errors.curves.items()}
    budgets = memory_budgets(target, graph, cost, graph)
    try:
        plan, _ = select_channels(state.baseline.groups, scores, target, graph.cost, cost, budgets, errors=state.errors)
    except TargetNotReached:
        return None
    return {name: int((~kept).sum()) for name, kept in plan.kept.items()}
