"""What all rules share: their type, and what several of them do with operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compressor.graph.trace import Call
from compressor.graph.tracked import Dim
from compressor.graph.tracker import ChannelTracker

OperatorRule = Callable[[ChannelTracker, Call], None]
"""Carries the dimensions of a call's operands over to its results."""


def aten_rules(rule: OperatorRule, names: str) -> dict[str, OperatorRule]:
    """Give several operators of PyTorch the same rule.

    Args:
        rule: The rule.
        names: Names of operators without "aten.", separated by spaces.

    Returns:
        Entries of the table of rules.
    """
    return {f"aten.{name}": rule for name in names.split()}


def axis_of(dim: int, rank: int) -> int:
    """Count a dimension from the first one.

    Args:
        dim: The dimension as an operator takes it, negative from the last one.
        rank: Number of dimensions of the tensor; a single number counts as one of one dimension, as in PyTorch.

    Returns:
        The dimension, from 0.
    """
    return dim % max(1, rank)


def tie_all(tracker: ChannelTracker, call: Call, meeting: Sequence[Dim | None]) -> Dim | None:
    """Tie dimensions that are combined entry by entry.

    Args:
        tracker: Collects the ties.
        call: The call that combines them, for the reason of a freeze.
        meeting: The dimensions, all of one size; None for fixed ones.

    Returns:
        The dimension of the result; None where all are fixed.
    """
    if not any(meeting):
        return None
    dim = meeting[0]
    for other in meeting[1:]:
        dim = tracker.tie_or_freeze(dim, other, call, "combined with a tensor of fixed size")
    return dim


def freeze_inputs(tracker: ChannelTracker, call: Call, why: str) -> None:
    """Freeze every dimension of the operands.

    Args:
        tracker: Collects what is frozen.
        call: The call whose operands are frozen.
        why: The reason, as users read it.
    """
    for ref in call.refs():
        for dim in tracker.dims(ref):
            tracker.freeze(dim, call, why)


def freeze_operands(tracker: ChannelTracker, call: Call, why: str = "operator without a rule") -> None:
    """Freeze every dimension of the operands; those of the results are fixed.

    Args:
        tracker: Collects what is frozen.
        call: The call that is not understood.
        why: The reason, as users read it.
    """
    freeze_inputs(tracker, call, why)
    for ref in call.outs:
        tracker.set_dims(ref, (None,) * len(ref.shape))
