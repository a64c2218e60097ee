"""The table of operators: the rule of each.

`apply_rule` looks the rule up. An operator without one freezes its operands, so that the rest can still be pruned.
"""

from __future__ import annotations

from compressor.graph.rules import (
    convolutions,
    creation,
    join,
    linear,
    normalization,
    positions,
    products,
    recurrent,
    shape,
)
from compressor.graph.rules.base import OperatorRule, freeze_operands
from compressor.graph.trace import Call
from compressor.graph.tracker import ChannelTracker

RULES: dict[str, OperatorRule] = {
    **convolutions.RULES,
    **linear.RULES,
    **normalization.RULES,
    **recurrent.RULES,
    **products.RULES,
    **shape.RULES,
    **creation.RULES,
    **join.RULES,
    **positions.RULES,
}


def has_rule(op: str) -> bool:
    """Whether an operator has a rule of its own."""
    return op in RULES


def takes_sizes(op: str) -> bool:
    """Whether an operator takes sizes or positions that code may have fixed."""
    return RULES.get(op) in (*shape.TAKES_SIZES, *creation.TAKES_SIZES, *join.TAKES_SIZES, *positions.TAKES_SIZES)


def apply_rule(tracker: ChannelTracker, call: Call) -> None:
    """Carry the dimensions of one call's operands over to its results.

    Args:
        tracker: What is known of the trace up to this call; extended.
        call: The call.
    """
    rule = RULES.get(call.op) or (shape.pointwise if call.pointwise else freeze_operands)
    try:
        rule(tracker, call)
    except (AssertionError, LookupError, TypeError, ValueError):  # arguments in a form the rule was not written for
        freeze_operands(tracker, call, "operator used in a way that has no rule")
