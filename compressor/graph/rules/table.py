"""The table of operators: what each does to the provenance of its operands' dimensions.

`apply_rule` finds the rule. An operator without one freezes what touches it, so that the rest can still be cut.
"""

from __future__ import annotations

from collections.abc import Callable

from compressor.graph import rules_positions, rules_recurrent
from compressor.graph.rules import attention as rules_attention
from compressor.graph.rules import join as rules_join
from compressor.graph.rules import layers as rules_layers
from compressor.graph.rules import shape as rules_shape
from compressor.graph.trace import Call
from compressor.graph.tracker import ChannelTracker

OperatorRule = Callable[[ChannelTracker, Call], None]

RULES: dict[str, OperatorRule] = {
    **rules_layers.RULES,
    **rules_recurrent.RULES,
    **rules_attention.RULES,
    **rules_shape.RULES,
    **rules_join.RULES,
    **rules_positions.RULES,
}


def has_rule(op: str) -> bool:
    """Whether an operator has a rule of its own."""
    return op in RULES


def takes_sizes(op: str) -> bool:
    """Whether an operator takes sizes or positions that code may have fixed."""
    return RULES.get(op) in (
        rules_shape.reshape,
        rules_shape.expand,
        rules_join.split_axis,
        rules_join.gather,
        rules_join.pad,
        rules_join.scatter,
        rules_join.copy,
        rules_shape.constant_tensor,
    )


def apply_rule(provenance: ChannelTracker, call: Call) -> None:
    """Carry the dimensions of one call's operands over to its results."""
    rule = RULES.get(call.op) or (rules_shape.pointwise if call.pointwise else freeze_operands)
    try:
        rule(provenance, call)
    except (AssertionError, LookupError, TypeError, ValueError):  # arguments in a form the rule was not written for
        freeze_operands(provenance, call, "operator used in a way that has no rule")


def freeze_operands(provenance: ChannelTracker, call: Call, why: str = "operator without a rule") -> None:
    """Nothing that goes in can be cut, and what comes out is fixed."""
    for ref in call.refs():
        for dim in provenance.dims(ref):
            provenance.freeze(dim, call, why)
    for ref in call.outs:
        provenance.set(ref, (None,) * len(ref.shape))
