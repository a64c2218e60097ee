"""Solve the layers of a slim model one after the other, each for the inputs that the solved ones before it produce.

Every layer aims at the dense layer's output for the same image. The last layer of a residual branch aims at the dense
sum less the slim shortcut, which pulls the stream back to the dense one (He, Zhang and Sun, Channel Pruning for
Accelerating Very Deep Neural Networks, ICCV 2017, arXiv:1707.06168).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import MappingProxyType

from torch import Tensor, nn

from compressor.core import BatchDims, KeptIndices
from compressor.execution.copies import copy_module
from compressor.reconstruction.attention import AttentionProblem, find_attention_problems
from compressor.reconstruction.lockstep import Lockstep
from compressor.reconstruction.pair import Arguments, ModelPair, rebatch
from compressor.reconstruction.problem import LayerProblem, LayerResult
from compressor.reconstruction.program import Program
from compressor.reconstruction.recurrent_layers import RecurrentProblem, find_recurrent_problems
from compressor.reconstruction.solvable_layers import SolvableLayer, find_layers
from compressor.reconstruction.solver_options import ReconstructionSettings

Progress = Callable[[int, int], None]
"""(layers done, layers in all)"""


@dataclass(frozen=True, slots=True)
class ReconstructionResult:
    """The slim model with solved weights, and the result of each layer in the order of solution."""

    module: nn.Module
    layers: tuple[LayerResult, ...]
    masks: Mapping[str, Tensor]  # the given ones, or those that a search replaced them by
    images: int  # samples that layers were fitted to and judged by
    seconds: float


def reconstruct(
    dense: nn.Module,
    slim: nn.Module,
    kept: KeptIndices,
    batches: Sequence[Arguments],
    settings: ReconstructionSettings,
    masks: Mapping[str, Tensor] = MappingProxyType({}),
    progress: Progress = lambda done, total: None,
    batch_dims: BatchDims | None = None,
) -> ReconstructionResult:
    """Solve every layer behind the first pruned one in closed form, so that its output is that of the dense model.

    Args:
        dense: The model before pruning, in eval mode.
        slim: The model after surgery, in eval mode; it may lack residual blocks. It is not changed.
        kept: Tensor name -> dimension -> kept indices in the dense model's numbering.
        batches: Calibration inputs without labels, tuples of the model's arguments.
        settings: How layers are solved.
        masks: Weight of `slim` -> True where it may be other than zero.
        progress: Called after every layer.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        A copy of `slim` with other values and the same shapes.
    """
    start = time.perf_counter()
    pair = ModelPair(
        dense, copy_module(slim), kept, rebatch(slim, batches, settings.batch_size, batch_dims), batch_dims
    )
    program = pair.slim_program(pair.images)
    dense_program = pair.dense_program(pair.images)
    dense_layers = {layer.weight: layer for layer in find_layers(dense_program)}
    changed = kept.keys() | masks.keys()
    dropped = dict(dense.named_parameters()).keys() - dict(slim.named_parameters()).keys()

    def differs(layer: SolvableLayer) -> bool:
        same = dense_layers.get(layer.weight)
        return _differs(program, layer, changed) or (same is not None and _differs(dense_program, same, dropped))

    layers = [layer for layer in find_layers(program) if differs(layer)]
    callers = {**{layer.weight: layer for layer in layers}, **(dense_layers if settings.mode == "parallel" else {})}
    searched = dict(masks)
    stops: list[_Stop] = []
    for layer in layers:
        dense_layer, mask = dense_layers.get(layer.weight), masks.get(layer.weight)
        visits = _LayerVisits(layer, partial(LayerProblem, layer, dense_layer, pair, settings, mask), searched)
        sites = callers[layer.weight].sites
        stops += [_Stop(site.operation, partial(visits.visit, call)) for call, site in enumerate(sites)]
    calls: list[AttentionProblem | RecurrentProblem] = []
    if settings.mode == "sequential":
        calls += find_attention_problems(pair, masks, settings.ridges)
        calls += find_recurrent_problems(pair, masks, settings.ridges)
    stops += [_Stop(problem.slim.operation, problem.solve) for problem in calls]
    total = len(layers) + len(calls)
    lockstep = Lockstep(pair, hold_out_batches(len(pair.inputs), settings.holdout), settings.memory)
    results: list[LayerResult] = []
    for stop in sorted(stops, key=lambda stop: stop.operation):
        if (result := stop.visit(lockstep)) is not None:
            results.append(result)
            progress(len(results), total)
    results += unreached(pair.slim, program, changed)
    images, seconds = sum(map(pair.images_of, pair.inputs)), time.perf_counter() - start
    return ReconstructionResult(pair.slim, tuple(results), searched, images, seconds)


@dataclass(frozen=True, slots=True)
class _Stop:
    """An operation before which the batches wait for a visit, which gives the result of a layer or None."""

    operation: int
    visit: Callable[[Lockstep], LayerResult | None]


class _LayerVisits:
    """A layer that is measured at every call, and solved at the last one."""

    def __init__(self, layer: SolvableLayer, make: Callable[[], LayerProblem], masks: dict[str, Tensor]) -> None:
        self._layer, self._make, self._masks = layer, make, masks
        self._problem: LayerProblem | None = None  # between the first call and the last one, for it holds samples

    def visit(self, call: int, lockstep: Lockstep) -> LayerResult | None:
        """Measure one call.

        Args:
            call: Its index.
            lockstep: The batches, which stand before the call or earlier.

        Returns:
            The layer's result after its last call; None before.
        """
        problem = self._problem or self._make()
        if problem.obstacle is None:
            problem.measure(lockstep, call)
        if call < len(self._layer.sites) - 1:
            self._problem = problem
            return None
        self._problem = None
        result = problem.solve()
        if problem.mask is not None:
            self._masks[self._layer.weight] = problem.mask
        if call and problem.obstacle is None:  # earlier calls of the layer ran with its old weight
            lockstep.restart()
        return result


def unreached(module: nn.Module, program: Program, changed: Set[str]) -> list[LayerResult]:
    """List the pruned layers that the recorded program does not call.

    Args:
        module: The slim model.
        program: Its program.
        changed: Names of pruned or masked tensors.

    Returns:
        A result with the reason for each of these layers.
    """
    called = {name for uid, name in program.names.items() if uid in program.readers}
    reason = "it is not called" if program.complete else "it runs behind a call that depends on values"
    names = {name for name, parameter in module.named_parameters() if parameter.ndim > 1} & changed
    return [LayerResult(name.rpartition(".")[0], reason=reason) for name in sorted(names - called)]


def hold_out_batches(count: int, share: float) -> list[bool]:
    """Choose the batches that only judge: spread evenly, the second batch among them.

    Args:
        count: Number of batches.
        share: Share of the batches to hold out.

    Returns:
        True for held-out batches; none are where the share is less than one batch.
    """
    numbers = [math.floor((index - 2) * share + 1 + 1e-9) for index in range(count + 1)]  # held out before each batch
    return [count * share >= 1 and after > before for before, after in pairwise(numbers)]


def _differs(program: Program, layer: SolvableLayer, changed: Set[str]) -> bool:
    """Whether a tensor of another shape or value is read up to the layer's last call."""
    operations = program.operations[: layer.sites[-1].operation + 1]
    return any(program.names.get(uid) in changed for operation in operations for uid in operation.reads)
