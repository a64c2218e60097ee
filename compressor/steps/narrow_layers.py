"""Layers that a plan leaves with less than a quarter of their channels, though no ratio of the recipe says so."""

from __future__ import annotations

from compressor.budget.layer_rules import layer_ratio
from compressor.budget.selection import LEVEL
from compressor.budget.target import PruningTarget
from compressor.steps.state import PruningState

NAMED = 4  # layers that the warning names


def narrow_layers(state: PruningState, target: PruningTarget) -> list[str]:
    """List what falls below a quarter of a layer's first channels with the state's plan.

    Args:
        state: The state with a plan.
        target: What the plan was selected for. A ratio, of all layers or of one, is no surprise, and error curves know
            how much a narrow layer costs.

    Returns:
        `layer (kept of first)`, the narrowest first.
    """
    if target.ratio is not None or target.scope == "error":
        return []
    free = {group.name for group in state.groups if layer_ratio(group, target.rules) is None}
    widths = sorted(_widths(state).items(), key=lambda entry: entry[1][2] / entry[1][0])
    return [
        f"{name} ({kept} of {first})"
        for name, (first, now, kept) in widths
        if name in free and kept < LEVEL * first <= now
    ]


def smallest_share(state: PruningState) -> float:
    """The smallest share of its first channels that a layer of the plan keeps."""
    return min((kept / first for first, _, kept in _widths(state).values()), default=1.0)


def narrow_warning(layers: list[str]) -> str:
    """The warning that names such layers."""
    subject = f"{len(layers)} layers keep" if len(layers) > 1 else "one layer keeps"
    names = f"{', '.join(layers[:NAMED])}{', ...' if len(layers) > NAMED else ''}"
    hint = "lower the target, or unfreeze other layers, which inspect lists"
    return f"{subject} less than a quarter of the channels: {names}; {hint}"


def _widths(state: PruningState) -> dict[str, tuple[int, int, int]]:
    """Group that the plan prunes -> its channels at first, now and after it."""
    removed = state.removed_before()
    return {
        name: (len(kept_C) + removed.get(name, 0), len(kept_C), int(kept_C.sum()))
        for name, kept_C in state.selected.kept.items()
    }
