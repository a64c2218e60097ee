"""Which channels can be pruned: trace, group, remove on trial; freeze what depends on sizes fixed in code."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.errors import ModelError
from compressor.execution.copies import copy_module, copy_without_values
from compressor.execution.run_copy import forward_error
from compressor.graph.compared_sizes import Place, compared_attributes, is_own_check
from compressor.graph.dependency_graph import DependencyGraph, build_dependency_graph
from compressor.graph.expected_shapes import lines_of_other_shapes
from compressor.graph.rules import table as rules
from compressor.graph.trace import Trace, trace_module
from compressor.graph.tracked import SizeInterpretation
from compressor.surgery.blame import blame, called_near, lines_read_as, location_of
from compressor.surgery.removal import contradictions, remove_channels
from compressor.surgery.width_numbers import freeze_numbered_groups

if TYPE_CHECKING:
    from compressor.core import BoolArray

FOLLOW = SizeInterpretation.FOLLOW  # of lines of which nothing else is known


def analyze(module: nn.Module, *inputs: Tensor, name: str, mixing: bool = False) -> DependencyGraph:
    """Determine the channel groups of a module by running it.

    Where a forward pass fails after a trial removal, the reshapes, splits and slices nearby hold sizes fixed in code.
    Their lines are interpreted more strictly (see `SizeInterpretation`) until the pass runs. Where code compares a
    width with a number that a module stores, that number follows the width (see compared_sizes.py). What is fixed even
    then is frozen. Where some lines consist of heads, the lines beside them are interpreted in the same way if more can
    be removed then.

    Args:
        module: The module. It is not changed.
        inputs: A batch of one.
        name: What errors call the module.
        mixing: Whether channels may be removed that a normalization mixes with others. Its statistics change with every
            removed channel, so that no removal keeps the others as they were.

    Returns:
        The dependency graph.

    Raises:
        ModelError: The module does not run on `inputs`, or the cause of a failing trial cannot be located.
    """
    try:
        module, inputs, trace = _without_values(module, *inputs)
    except Exception:  # something on the way asks for values
        trace = _traced(module, *inputs, name=name)
    search = _Search(module, inputs, trace, name, mixing)
    graph, siblings = search.settle({})
    if siblings:
        with suppress(ModelError):
            other, _ = search.settle(dict.fromkeys(siblings, SizeInterpretation.REMOVE_BLOCKS))
            if other.cost.least(other.groups).macs < graph.cost.least(graph.groups).macs:
                return other
    return graph


def require_forward(module: nn.Module, *inputs: Tensor, name: str) -> None:
    """Run a model once, because `analyze` computes shapes alone, which may pass where values fail.

    Args:
        module: The model. It is not changed.
        inputs: A batch of one.
        name: What errors call the model.

    Raises:
        ModelError: The model does not run.
    """
    if failure := forward_error(module, *inputs):
        raise _does_not_run(failure, *inputs, name=name) from failure


@dataclass(frozen=True, slots=True)
class _Search:
    """The forward pass whose source lines are to be interpreted."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    trace: Trace
    name: str
    mixing: bool

    def settle(self, start: Mapping[str, SizeInterpretation]) -> tuple[DependencyGraph, set[str]]:
        """Interpret lines more strictly until a trial removal runs, beginning with `start`.

        Returns the graph, and the lines whose neighbours were interpreted in blocks at some point.
        """
        lines = {call.where for call in self.trace.calls if rules.takes_sizes(call.op)}
        called = {call.where for call in self.trace.calls}
        interpretations, siblings = dict(start), set[str]()
        compared: dict[Place, int] = {}
        shared = set[Place]()
        while True:
            graph = self._graph(interpretations, compared, shared)
            in_blocks = {line for line in graph.frozen_block_lines if interpretations.get(line, FOLLOW) is FOLLOW}
            if in_blocks:
                interpretations |= dict.fromkeys(in_blocks, SizeInterpretation.REMOVE_BLOCKS)
                graph = self._graph(interpretations, compared, shared)
            siblings |= graph.sibling_lines
            plan = _trial_plan(graph)
            slim, failure = _try(self.module, *self.inputs, graph=graph, plan=plan)
            if failure is None:
                trace = self._traced(slim)
                splits = (shape for shape in graph.expected_shapes if shape.splits)
                otherwise = lines_of_other_shapes(splits, plan, trace)
                blamed = set(otherwise) - lines_read_as(SizeInterpretation.FREEZE_SIZED_OPS, interpretations)
                if not blamed:
                    frozen = freeze_numbered_groups(graph, self.module, self.inputs, self.trace, trace)
                    return frozen, siblings
            elif _next_dimensions(failure, slim, graph, compared):
                continue
            else:
                near = called_near(failure, called, interpretations) if is_own_check(failure) else set()
                first = partial(self._first_other_shape, slim, graph, plan)
                blamed = near or blame(failure, slim, lines, called, interpretations, first)
                if not blamed:
                    break
            # Every round ties other sizes or reads a line more strictly, so that this ends.
            if not self._tie_sizes(graph, plan, blamed, shared):
                _interpret_more_strictly(interpretations, blamed, lines)
        problem = f"the forward pass fails at {location_of(failure)} after channels are removed: {failure}"
        hint = "freeze the layers around that line with prune.layers"
        raise ModelError("model-cannot-be-pruned/trial-forward-fails", self.name, problem, hint)

    def _tie_sizes(self, graph: DependencyGraph, plan: PrunePlan, blamed: set[str], shared: set[Place]) -> bool:
        """Tie the sizes that one attribute of a blamed module holds; False if none is left to tie."""
        modules = {call.module for call in self.trace.calls if call.where in blamed}
        untried = {place for place in contradictions(graph.attributes, plan) - shared if place[0] in modules}
        shared |= untried
        return bool(untried)

    def _first_other_shape(self, slim: nn.Module, graph: DependencyGraph, plan: PrunePlan) -> str | None:
        """The first line before a failure whose result has another shape than the removal leaves."""
        trace = self._traced(slim, until_failure=True)
        return next(iter(lines_of_other_shapes(graph.expected_shapes, plan, trace)), None)

    def _traced(self, slim: nn.Module, *, until_failure: bool = False) -> Trace:
        return trace_module(slim, *self.inputs, known=rules.has_rule, until_failure=until_failure)

    def _graph(
        self, interpretations: Mapping[str, SizeInterpretation], compared: Mapping[Place, int], shared: set[Place]
    ) -> DependencyGraph:
        return build_dependency_graph(
            self.module, self.trace, interpretations, mixing=self.mixing, compared=compared, shared=shared
        )


def _next_dimensions(failure: Exception, slim: nn.Module, graph: DependencyGraph, compared: dict[Place, int]) -> bool:
    """Let the attributes that a check names stand for another dimension; False if none is left to try."""
    named, alike = compared_attributes(failure, slim)
    known = {(attribute.module, attribute.name) for attribute in graph.attributes}
    untried = [place for place in named if place not in compared or place in known]
    compared |= {place: compared.get(place, -1) + 1 for place in untried}
    if untried:
        compared |= {place: compared.get(place, 0) for place in alike}
    return bool(untried)


def _interpret_more_strictly(interpretations: dict[str, SizeInterpretation], blamed: set[str], lines: set[str]) -> None:
    """Take the next interpretation of each line that is to blame; one without sized operators is frozen at once."""
    for where in blamed:
        stricter = SizeInterpretation(interpretations.get(where, FOLLOW) + 1)
        interpretations[where] = stricter if where in lines else SizeInterpretation.FREEZE_ALL


def _trial_plan(graph: DependencyGraph) -> PrunePlan:
    """Remove between a quarter and three quarters of every group, each by another number."""
    random = np.random.default_rng(0)
    kept: dict[str, BoolArray] = {}
    for index, group in enumerate(graph.groups):
        if group.frozen is None:
            lowest = max(1, group.size // 4)
            count = lowest + index % max(1, 3 * group.size // 4 - lowest + 1)
            kept[group.name] = random.permutation(group.size) < count
    return PrunePlan(kept)


def _try(
    module: nn.Module, *inputs: Tensor, graph: DependencyGraph, plan: PrunePlan
) -> tuple[nn.Module, Exception | None]:
    """Remove channels and run; return the smaller module and what it raised."""
    slim = remove_channels(module, graph, plan)
    try:
        with torch.inference_mode(), inputs[0].device:
            slim(*inputs)
    except Exception as error:  # whatever a user's forward may raise
        return slim, error
    return slim, None


def _traced(module: nn.Module, *inputs: Tensor, name: str) -> Trace:
    try:
        return trace_module(module, *inputs, known=rules.has_rule)
    except Exception as error:  # whatever a user's forward may raise
        raise _does_not_run(error, *inputs, name=name) from error


def _does_not_run(error: Exception, *inputs: Tensor, name: str) -> ModelError:
    shapes = " and ".join(str(tuple(tensor.shape)) for tensor in inputs)
    problem = f"it fails on an input of shape {shapes} at {location_of(error)}: {error}"
    hint = "set model.input to the shape that it expects; the model runs in float32 and without gradients"
    return ModelError("model-does-not-run/forward-fails", name, problem, hint)


def _without_values(module: nn.Module, *inputs: Tensor) -> tuple[nn.Module, tuple[Tensor, ...], Trace]:
    """Copy module and inputs to the meta device, where a forward pass computes shapes only, and trace them.

    Raises what the forward raises there, which it does where it needs values.
    """
    shapes, on_meta = copy_without_values(module), tuple(tensor.to("meta") for tensor in inputs)
    with torch.inference_mode(), on_meta[0].device:
        copy_module(shapes)(*on_meta)  # a trace sees into operators that ask for values by themselves
    return shapes, on_meta, trace_module(shapes, *on_meta, known=rules.has_rule)
