"""Refinement of a solved network by gradients: all layers together, from feature maps of the dense model.

A closed-form fit takes the layers before it as they are. Here they change together, so that every residual sum and
every output is that of the dense model:

    minimize   mean over maps of   || f - g ||^2 / || g - mean(g) ||^2

with f and g the maps of the slim and of the dense model. In a network without residual sums, the outputs of all layers
are compared. With about 1,000 samples, maps generalize where the divergence of the final scores does not (Wang, Zhang
and Wu, Practical Network Acceleration with Tiny Sets, CVPR 2023, arXiv:2202.07861). BatchNorm statistics do not change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from compressor.agreement import relative_square
from compressor.core import BatchDims, KeptIndices
from compressor.errors import is_out_of_memory
from compressor.execution.copies import copy_module
from compressor.reconstruction.pair import Arguments, ModelPair, rebatch
from compressor.reconstruction.program import Program, replaying
from compressor.reconstruction.regression import Regression, as_regression
from compressor.reconstruction.sequential import Progress
from compressor.reconstruction.solvable_layers import find_layers
from compressor.reconstruction.solver_options import ReconstructionSettings

LR = 1e-3  # of Adam, at the begin of half a cosine
WARMUP = 20  # batches


@dataclass(frozen=True, slots=True)
class ComparedMap:
    """A tensor of both programs."""

    slim: int
    dense: int
    regression: Regression | None  # selects the channels that are kept; None for an output of the model


def refine(
    dense: nn.Module,
    slim: nn.Module,
    kept: KeptIndices,
    batches: Sequence[Arguments],
    settings: ReconstructionSettings,
    passes: int,
    masks: Mapping[str, Tensor] = MappingProxyType({}),
    progress: Progress = lambda done, total: None,
    batch_dims: BatchDims | None = None,
) -> nn.Module | None:
    """Train a solved network on feature maps of the dense model.

    Args:
        dense: The model before pruning, in eval mode.
        slim: The solved model, in eval mode. It is not changed.
        kept: Tensor name -> dimension -> kept indices in the dense model's numbering.
        batches: Calibration inputs without labels, tuples of the model's arguments.
        settings: Batch size, memory and seed.
        passes: Passes over the inputs.
        masks: Weight of `slim` -> True where it may be other than zero.
        progress: Called after every batch.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        A copy of `slim` with other values. None where nothing can be compared, where the maps take more than
        `settings.memory`, or where the model has no gradient.
    """
    module = copy_module(slim)
    pair = ModelPair(dense, module, kept, rebatch(slim, batches, settings.batch_size, batch_dims), batch_dims)
    program, dense_program = pair.slim_program(pair.images), pair.dense_program(pair.images)
    maps = _compared_maps(pair)
    stored = sum(dict(program.storages.values()).values()) + max(dense_program.memory)
    if not maps or stored > settings.memory:
        return None
    parameters = _trained(module, program)
    optimizer = torch.optim.Adam(parameters.values(), lr=LR)
    random = torch.Generator().manual_seed(settings.seed)
    total = passes * len(pair.inputs)
    try:
        with _gradients_for(parameters):
            for step, number in enumerate(_order(len(pair.inputs), passes, random)):
                optimizer.param_groups[0]["lr"] = LR * min(1, (step + 1) / WARMUP) * _half_cosine(step / total)
                optimizer.zero_grad()
                if (distance := _distance(pair, pair.inputs[number], maps)) is None:
                    return None
                distance.backward()  # type: ignore[no-untyped-call]
                for name, mask in masks.items():
                    if name in parameters and (gradient := parameters[name].grad) is not None:
                        gradient.mul_(mask)
                optimizer.step()
                progress(step + 1, total)
    except RuntimeError as error:  # no gradient, or an operator overwrites what another one's gradient needs
        if is_out_of_memory(error):
            raise
        return None
    return module


def _half_cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _order(count: int, passes: int, random: torch.Generator) -> Iterator[int]:
    for _ in range(passes):
        yield from torch.randperm(count, generator=random).tolist()


def _trained(module: nn.Module, program: Program) -> dict[str, nn.Parameter]:
    """The parameters that the program reads."""
    names = {name for uid, name in program.names.items() if uid in program.readers}
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if name in names and parameter.is_floating_point()
    }


@contextmanager
def _gradients_for(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Let these parameters have gradients meanwhile."""
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for name, parameter in parameters.items():
            parameter.grad = None
            parameter.requires_grad_(before[name])


def _compared_maps(pair: ModelPair) -> list[ComparedMap]:
    """Residual sums, or the outputs of all layers where there are none, and the outputs of the model."""
    slim, dense = pair.slim_program(pair.images), pair.dense_program(pair.images)
    dense_layers = {layer.weight: layer for layer in find_layers(dense)}
    sums: dict[int, ComparedMap] = {}
    outputs: dict[int, ComparedMap] = {}
    for layer in find_layers(slim):
        other = dense_layers.get(layer.weight)
        if other is None or len(other.sites) != len(layer.sites):
            continue
        regression = as_regression(layer, pair.slim, pair.kept)
        for site, dense_site in zip(layer.sites, other.sites, strict=True):
            if site.residual is not None and dense_site.residual is not None:
                sums[site.residual.total] = ComparedMap(site.residual.total, dense_site.residual.total, regression)
            outputs[site.output] = ComparedMap(site.output, dense_site.output, regression)
    answers = [
        ComparedMap(uid, other, None)
        for uid, other in zip(slim.outputs, dense.outputs, strict=False)
        if slim.shapes[uid] == dense.shapes[other] and len(slim.shapes[uid])  # a single number has no spread
    ]
    return [*(sums or outputs).values(), *answers]


def _distance(pair: ModelPair, inputs: Arguments, maps: Sequence[ComparedMap]) -> Tensor | None:
    """The loss of one batch; None where no map of both models can be compared."""
    images = pair.images_of(inputs)
    with replaying():
        wanted = _run(pair.dense_program(images), inputs, {compared.dense for compared in maps})
    given = _run(pair.slim_program(images), inputs, {compared.slim for compared in maps})
    terms = []
    for compared in maps:
        if compared.slim not in given or compared.dense not in wanted:
            continue
        f, g = given[compared.slim], wanted[compared.dense]
        if compared.regression is not None:
            g = compared.regression.of_kept(g)
        if g.is_floating_point() and f.shape == g.shape:
            terms.append(relative_square(f - g, g - g.mean()))
    return torch.stack(terms).mean() if terms else None


def _run(program: Program, inputs: Arguments, wanted: set[int]) -> dict[int, Tensor]:
    """Run a program and return the wanted tensors, as they are before a later operation overwrites them."""
    values, results = dict(zip(program.inputs, inputs, strict=True)), dict[int, Tensor]()
    for index, operation in enumerate(program.operations):
        program.run(values, index, index + 1)
        new = wanted.intersection(operation.outputs) - results.keys()
        results |= {uid: values[uid].clone() for uid in new if uid in values}
    return results
