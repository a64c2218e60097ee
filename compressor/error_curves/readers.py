"""The readers of channel groups, and the second moments of their inputs: what group OBS compares channels by.

A reader with more than MAX_COLUMNS columns, several of them for a channel, is described by the moments of its channels
alone, averaged over kernel positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressor.core import BatchDims, ChannelGroup
from compressor.error_curves.elimination import QuadraticReader
from compressor.error_curves.visit_layers import LayerCall, LayerVisitor
from compressor.execution.randomness import seeded_generator
from compressor.reconstruction.moments import Moments, Statistics
from compressor.reconstruction.pair import Arguments, rebatch
from compressor.reconstruction.regression import aim_through, as_regression, weight_rows
from compressor.reconstruction.solvable_layers import SolvableLayer

MAX_COLUMNS = 2500
MAX_CHANNEL_COLUMNS = 6144
MAX_BYTES = 3 * 2**30  # of all moments
POSITIONS = 64  # of an image
BATCH_SIZE = 32
RIDGE = 1e-3
FEW_SAMPLES = 50  # samples for each column below which the ridge grows


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader of a group, or one group of a grouped convolution."""

    layer: SolvableLayer
    part: int  # group of the convolution
    blocks: Tensor  # (C, t) columns of each channel
    pooled: bool  # moments of channels, not of columns
    columns: int  # input columns of one group of the convolution


@dataclass(frozen=True, slots=True)
class MeasuredReader:
    """A reader with its quadratic form, and what its refit is written back with."""

    reader: Reader
    form: QuadraticReader
    mean: Tensor  # of its inputs, (n,)
    scale: Tensor  # (o,) that its rows were multiplied by
    samples: int


@dataclass(slots=True)
class _Request:
    """Moments that one or several readers need."""

    columns: Tensor | None  # (C, t) blocks that are pooled; None for all columns
    moments: Moments = field(default_factory=Moments)


def find_readers(group: ChannelGroup, layers: Mapping[str, SolvableLayer], module: nn.Module) -> list[Reader]:
    """List the readers of a group that are convolutions or linear layers.

    Args:
        group: The group.
        layers: Weight -> layer of the model's forward pass.
        module: The model.

    Returns:
        The readers. Those whose input is not seen, such as the weights of an LSTM, are absent.
    """
    readers: list[Reader] = []
    for slot in group.slots:
        layer = layers.get(slot.tensor)
        if slot.role == "reader" and layer is not None and not layer.depthwise:
            shape = tuple(module.get_parameter(slot.tensor).shape)
            readers += _parts(layer, shape, slot.dim, torch.from_numpy(slot.positions))
    return readers


def measure_readers(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Arguments],
    *,
    seed: int = 0,
    batch_dims: BatchDims | None = None,
) -> dict[str, list[MeasuredReader]]:
    """Measure the inputs of all readers in one pass over the samples.

    Args:
        module: The model, in eval mode.
        groups: The groups; frozen ones are left out.
        batches: Samples without labels.
        seed: Of the sampled positions.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        Group -> its readers; an empty list where none is seen.
    """
    visitor = LayerVisitor(module, rebatch(module, batches, BATCH_SIZE, batch_dims), batch_dims)
    readers_of = {group.name: find_readers(group, visitor.layers, module) for group in groups if group.frozen is None}
    readers_of = _within_memory(readers_of)
    requests: dict[tuple[str, str], _Request] = {}
    for name, readers in readers_of.items():
        for reader in readers:
            key = _key(reader, name)
            if key not in requests:
                requests[key] = _Request(reader.blocks if reader.pooled else None)
    by_weight: dict[str, list[_Request]] = {}
    for (weight, _), request in requests.items():
        by_weight.setdefault(weight, []).append(request)
    regressions = {weight: as_regression(visitor.layers[weight], module, {}) for weight in by_weight}

    def show(call: LayerCall) -> None:
        regression = regressions[call.layer.weight]
        generator = seeded_generator(seed, call.batch, call.site.operation)
        positions = regression.positions(call.output, POSITIONS, call.images, generator)
        columns = regression.columns(call.input, call.output, positions)  # (R, G, n)
        for request in by_weight[call.layer.weight]:
            chosen = columns if request.columns is None else _pooled(columns, request.columns)
            request.moments.add(chosen, chosen[..., :0])

    visitor.visit(by_weight.keys(), show)
    statistics = {key: request.moments.statistics() for key, request in requests.items()}
    return {
        name: [_measured(reader, statistics[_key(reader, name)], module, len(readers)) for reader in readers]
        for name, readers in readers_of.items()
    }


def _within_memory(readers_of: Mapping[str, list[Reader]]) -> dict[str, list[Reader]]:
    """Leave out the readers of groups, the largest first, until all moments fit into memory."""
    sizes = {
        _key(reader, name): (len(reader.blocks) if reader.pooled else reader.columns) ** 2 * 8 * reader.layer.groups
        for name, readers in readers_of.items()
        for reader in readers
    }
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sum(sizes.values()) <= MAX_BYTES:
            break
        del sizes[key]
    return {name: [reader for reader in readers if _key(reader, name) in sizes] for name, readers in readers_of.items()}


def _key(reader: Reader, group: str) -> tuple[str, str]:
    return reader.layer.weight, group if reader.pooled else ""


def _parts(layer: SolvableLayer, shape: tuple[int, ...], dim: int, positions: Tensor) -> Iterator[Reader]:
    """The readers that one slot stands for; none if its dimension holds no input columns."""
    transposed = layer.window is not None and layer.window.transposed
    if dim != (0 if transposed else 1):
        return
    taps = 1 if layer.window is None else math.prod(layer.window.kernel)
    inputs = shape[0] // layer.groups if transposed else shape[1]  # of one group
    shared = not (transposed and layer.groups > 1)  # every group of a convolution reads the same places
    for part in range(layer.groups):
        own = positions if shared else _within(positions, part, inputs)
        if own is None or not own.numel():
            continue
        blocks = (own.unsqueeze(-1) * taps + torch.arange(taps)).flatten(1)
        pooled = inputs * taps > MAX_COLUMNS and blocks.shape[1] > 1
        if pooled or inputs * taps <= MAX_CHANNEL_COLUMNS:
            yield Reader(layer, part, blocks, pooled, inputs * taps)


def _within(positions: Tensor, part: int, inputs: int) -> Tensor | None:
    """Positions (C, r) of one group of a transposed convolution, if every channel has as many there."""
    inside = positions // inputs == part
    counts = inside.sum(1)
    if bool((counts != counts[0]).any()):
        return None
    return (positions % inputs)[inside].reshape(len(positions), -1)


def _pooled(columns: Tensor, blocks: Tensor) -> Tensor:
    """Columns (R, G, n) as samples (R t, G, C) of channels."""
    chosen = columns[..., blocks]  # (R, G, C, t)
    return chosen.permute(0, 3, 1, 2).flatten(0, 1)


def _measured(reader: Reader, statistics: Statistics, module: nn.Module, count: int) -> MeasuredReader:
    """The quadratic form of one of `count` readers."""
    layer, part = reader.layer, reader.part
    covariance = statistics.xx[part]
    rows = weight_rows(module.get_parameter(layer.weight), layer)
    scale = aim_through(layer.sites[0].affines, rows.shape[0] * rows.shape[1], module).scale
    scale = scale.reshape(rows.shape[:2])[part]
    scale = torch.where(scale.abs() < 1e-6 * scale.abs().max(), 1e-6 * scale.abs().max() + 1e-30, scale)
    weight = rows[part] * scale.unsqueeze(1)
    blocks = reader.blocks
    if reader.pooled:
        weight = weight[:, blocks].permute(0, 2, 1).flatten(0, 1)
        blocks = torch.arange(len(blocks)).unsqueeze(1)
    variance = float((weight * (weight @ covariance)).sum())
    strength = RIDGE * max(1.0, FEW_SAMPLES * len(covariance) / max(1, statistics.count))
    diagonal = float(covariance.diagonal().mean())
    matrix = covariance + (min(strength, 0.3) * diagonal + 1e-12) * torch.eye(len(covariance), dtype=torch.float64)
    share = 1 / (variance * count) if variance > 1e-20 else 0.0
    form = QuadraticReader(matrix, weight, blocks, share)
    return MeasuredReader(reader, form, statistics.mean_x[part], scale, statistics.count)
