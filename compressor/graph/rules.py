"""The table of operators: what each does to the provenance of its operands' dimensions.

`apply` finds the rule. An operator without one freezes what touches it, so that the rest can still be cut.
"""

from __future__ import annotations

from collections.abc import Callable

from compressor.graph import rules_attention, rules_join, rules_layers, rules_shape
from compressor.graph.provenance import Provenance
from compressor.graph.trace import Call

Rule = Callable[[Provenance, Call], None]

RULES: dict[str, Rule] = {**rules_layers.RULES, **rules_attention.RULES, **rules_shape.RULES, **rules_join.RULES}


def known(op: str) -> bool:
    """Whether an operator has a rule of its own."""
    return op in RULES


def carries_weights(op: str) -> bool:
    """Whether an operator is a convolution or a linear layer, the ones whose multiply-adds are counted."""
    return op == "aten.linear" or op.startswith("aten.conv")


def has_sizes(op: str) -> bool:
    """Whether an operator takes sizes or positions that code may have fixed."""
    return RULES.get(op) in (
        rules_shape.reshape,
        rules_shape.expand,
        rules_join.split,
        rules_join.take,
        rules_join.pad,
        rules_join.put,
        rules_join.copy,
    )


def apply(provenance: Provenance, call: Call) -> None:
    """Carry the dimensions of one call's operands over to its results."""
    rule = RULES.get(call.op) or (rules_shape.pointwise if call.pointwise else unknown)
    try:
        rule(provenance, call)
    except (AssertionError, LookupError, TypeError, ValueError):  # arguments in a form the rule was not written for
        unknown(provenance, call, "operator used in a way that has no rule")


def unknown(provenance: Provenance, call: Call, why: str = "operator without a rule") -> None:
    """Nothing that goes in can be cut, and what comes out is fixed."""
    for ref in call.refs():
        for dim in provenance.dims(ref):
            provenance.freeze(dim, call, why)
    for ref in call.outs:
        provenance.set(ref, (None,) * len(ref.shape))
