"""Groups whose number of channels the code computes with, as in `y / math.sqrt(y.shape[1])`.

A removal changes such a number, so that the slim model would compute something else. Trial removals are traced without
values: where an operator then takes another number than in the dense model, the groups that decide it are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from compressor.core import ChannelGroup, Freeze, PrunePlan
from compressor.execution.randomness import equal_randomness
from compressor.graph.dependency_graph import DependencyGraph
from compressor.graph.rules import table as rules
from compressor.graph.trace import Call, CallId, Trace, trace_module
from compressor.surgery.halving import items_at_fault
from compressor.surgery.removal import remove_channels

WHY = "a number that the code computes from how many channels there are"
Numbers = Mapping[CallId, tuple[tuple[str, object], ...]]
"""call -> the numbers among its arguments"""


def freeze_numbered_groups(
    graph: DependencyGraph, module: nn.Module, inputs: Sequence[Tensor], dense: Trace, slim: Trace
) -> DependencyGraph:
    """Freeze the groups from whose size the code computes a number.

    Args:
        graph: The dependency graph.
        module: The module, in which every trial removal runs.
        inputs: What it runs on.
        dense: The trace of the module.
        slim: The trace after channels of every group were removed.

    Returns:
        The graph; the same one where no number differs.
    """
    if _first_difference(_numbers(dense), slim) is None:
        return graph

    def without(groups: Sequence[ChannelGroup]) -> Trace:
        plan = PrunePlan({group.name: np.arange(group.size) % 2 == 0 for group in groups})
        with equal_randomness():  # the code may draw numbers, too
            return trace_module(remove_channels(module, graph, plan), *inputs, known=rules.has_rule)

    expected = _numbers(without(()))

    def differing_call(groups: Sequence[ChannelGroup]) -> Call | None:
        return _first_difference(expected, without(groups))

    def fails(groups: Sequence[ChannelGroup]) -> bool:
        return differing_call(groups) is not None

    free = [group for group in graph.groups if group.frozen is None]
    frozen: dict[str, Freeze] = {}
    for group in items_at_fault(free, fails) if fails(free) else ():
        if (call := differing_call([group])) is not None:
            frozen[group.name] = Freeze("model", f"{WHY} ({call.op}, {call.where})")
    groups = (replace(group, frozen=group.frozen or frozen.get(group.name)) for group in graph.groups)
    return replace(graph, groups=tuple(groups))


def _first_difference(expected: Numbers, trace: Trace) -> Call | None:
    """The first call that takes another number than expected; of calls that were not expected nothing is said."""
    numbers = _numbers(trace)
    return next((call for key, call in trace.identified() if numbers[key] != expected.get(key, numbers[key])), None)


def _numbers(trace: Trace) -> Numbers:
    """All fractions, and the whole numbers of elementwise operators; those of others are sizes, which follow."""
    return {
        key: tuple(
            (name, value)
            for name, value in call.args.items()
            if isinstance(value, float) or (call.pointwise and isinstance(value, int))
        )
        for key, call in trace.identified()
    }
