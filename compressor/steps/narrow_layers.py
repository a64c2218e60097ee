"""Layers that a run leaves with less than a quarter of their channels, though no ratio of the recipe says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compressor.budget.layer_rules import layer_ratio
from compressor.budget.selection import MIN_KEPT_SHARE
from compressor.budget.target import PruningTarget
from compressor.core import ChannelGroup
from compressor.listed import listed
from compressor.run_log import RunLog
from compressor.steps.state import PruningState

NAMED = 4  # layers that the warning names


def makes_layers_narrow(state: PruningState, target: PruningTarget) -> bool:
    """Return whether the state's plan takes a layer below a quarter of its first channels.

    Args:
        state: The state with a plan.
        target: What the plan was selected for.
    """
    widths = _widths(state)
    free = (widths[group.name] for group in _free(state.groups, widths, target))
    return any(kept < MIN_KEPT_SHARE * first <= now for first, now, kept in free)


def smallest_share(state: PruningState) -> float:
    """The smallest share of its first channels that a layer of the plan keeps."""
    return min((kept / first for first, _, kept in _widths(state).values()), default=1.0)


def warn_of_narrow_layers(state: PruningState, target: PruningTarget, log: RunLog) -> None:
    """Warn of the layers that are below a quarter of their first channels, in one line for all rounds of a run.

    Args:
        state: The state after the last removal.
        target: What channels were selected for.
        log: Gets the warning.
    """
    unstructured = state.masks and state.sparse is None  # channels are removed because masks leave them without effect
    if state.removed is None or unstructured:
        return
    kept = state.removed.kept
    shares = {group.name: float(kept[group.name].mean()) for group in _free(state.baseline.groups, kept, target)}
    narrow = sorted((name for name in shares if shares[name] < MIN_KEPT_SHARE), key=shares.__getitem__)
    if narrow:
        subject = f"{len(narrow)} layers keep" if len(narrow) > 1 else "one layer keeps"
        names = listed([f"{name} ({kept[name].sum()} of {len(kept[name])})" for name in narrow], NAMED)
        hint = "raise the target, or unfreeze other layers, which inspect lists"
        log.warning(f"{subject} less than a quarter of the channels: {names}; {hint}")


def _free(
    groups: tuple[ChannelGroup, ...], widths: Mapping[str, object], target: PruningTarget
) -> Iterator[ChannelGroup]:
    """The groups with widths that only the selection decided. A ratio, of all layers or of one, is no surprise, and
    error curves know how much a narrow layer costs."""
    if target.ratio is None and target.scope != "error":
        yield from (group for group in groups if group.name in widths and layer_ratio(group, target.rules) is None)


def _widths(state: PruningState) -> dict[str, tuple[int, int, int]]:
    """Group that the plan prunes -> its channels at first, now and after it."""
    removed = state.removed_before()
    return {
        name: (len(kept_C) + removed.get(name, 0), len(kept_C), int(kept_C.sum()))
        for name, kept_C in state.selected.kept.items()
    }
