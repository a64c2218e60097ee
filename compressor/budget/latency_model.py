"""Latency of a plan on a device, interpolated in measured times of the model's layers.

L levels of a width, W layers, G groups, M plans at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from compressor.core import ChannelGroup, Layer, PrunePlan
from compressor.graph.activation_sizes import ActivationSizes
from compressor.graph.cost import removed_counts

if TYPE_CHECKING:
    from compressor.core import FloatArray, IntArray

LEVELS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)  # shares of a width that are timed; between them time is nearly linear
FEW_LEVELS = (1 / 4, 1 / 2, 1.0)  # half the time to measure, predictions within 2 % of those from all of them
MIN_UNCERTAINTY = 0.05
MIN_LAYER_SHARE = 0.02  # share of a layer's time that remains however narrow it gets

Times = Mapping[Layer, float]
WidthSteps = Callable[[Layer], tuple[int, int]]
"""layer -> the multiples that the time of its input and output channels grows in"""


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Milliseconds of a plan on one device: the sum over layers, and a time for each element of other operators.

    A layer's time is interpolated bilinearly in a grid of measured times, at widths rounded up to the multiples that
    the device rewards: `time(ceil(inputs / step) * step, ceil(outputs / step) * step)`.
    """

    groups: tuple[str, ...]
    workload: ActivationSizes
    levels_WL: tuple[FloatArray, FloatArray]  # of inputs and outputs, padded with infinity
    steps_W: tuple[IntArray, IntArray]
    ms_WLL: FloatArray
    per_element: float = 0.0
    residual: float = 0.0  # share of the dense model's time that its layers miss or exceed

    def ms(self, removed_MG: IntArray) -> FloatArray:
        """Predict milliseconds.

        Args:
            removed_MG: Channels removed from each group, (M, G).

        Returns:
            Milliseconds of each plan, (M,).
        """
        sizes = self.workload.sizes(removed_MG)
        total: FloatArray = self._layers(sizes).sum(axis=1) + self.per_element * self.workload.elements(sizes)
        return total

    def _layers(self, sizes: FloatArray) -> FloatArray:
        """Milliseconds of each layer, (M, W)."""
        work = self.workload
        widths = [np.ceil(sizes[:, index] - 1e-9) for index in (work.inputs_W, work.outputs_W)]
        (in_low, in_high, in_t), (out_low, out_high, out_t) = (
            _interpolation(width, levels, steps)
            for width, levels, steps in zip(widths, self.levels_WL, self.steps_W, strict=True)
        )
        at = np.arange(len(work.layers))
        low = (1 - in_t) * self.ms_WLL[at, in_low, out_low] + in_t * self.ms_WLL[at, in_high, out_low]
        high = (1 - in_t) * self.ms_WLL[at, in_low, out_high] + in_t * self.ms_WLL[at, in_high, out_high]
        layers = np.maximum((1 - out_t) * low + out_t * high, MIN_LAYER_SHARE * self.ms_WLL.max(axis=(1, 2)))
        full = work.sizes(np.zeros((1, work.entries_DG.shape[1]), dtype=np.int64))
        times: FloatArray = layers * sizes[:, work.places].prod(axis=2) / full[:, work.places].prod(axis=2)
        return times

    def predict(self, plan: PrunePlan) -> float:
        """Milliseconds of one plan."""
        return float(self.ms(removed_counts(self.groups, plan)[None])[0])

    def bottlenecks(self, plan: PrunePlan, groups: Sequence[ChannelGroup]) -> dict[str, float]:
        """Compute what keeps a plan from being faster, as shares of time.

        Args:
            plan: The plan.
            groups: The model's channel groups.

        Returns:
            `fixed`: share of the plan's time in layers whose widths cannot change. `between`: share of its time in
            other operators. `least`: share of the dense model's time that remains when every prunable channel is
            removed.
        """
        removed_MG = np.stack(
            [removed_counts(self.groups, plan), [0 if group.frozen else group.size - 1 for group in groups]]
        )
        sizes = self.workload.sizes(removed_MG)
        total, minimum = self.ms(removed_MG).tolist()
        one_level_W = [np.isfinite(levels_WL).sum(axis=1) == 1 for levels_WL in self.levels_WL]
        return {
            "fixed": float(self._layers(sizes)[0] @ (one_level_W[0] & one_level_W[1])) / total,
            "between": self.per_element * float(self.workload.elements(sizes)[0]) / total,
            "least": minimum / self.predict(PrunePlan({})),
        }

    def calibrated(self, dense_ms: float) -> LatencyModel:
        """Fit the model to the measured time of the dense model.

        Time that the layers do not explain is spread over the elements of the other operators. Where the layers exceed
        the measured time, all of them are scaled down.

        Args:
            dense_ms: Milliseconds of the dense model.

        Returns:
            The fitted model.
        """
        removed_MG = np.zeros((1, self.workload.entries_DG.shape[1]), dtype=np.int64)
        layers = float(replace(self, per_element=0.0).ms(removed_MG)[0])
        residual = abs(dense_ms - layers) / dense_ms
        if layers > dense_ms:
            return replace(self, ms_WLL=self.ms_WLL * (dense_ms / layers), per_element=0.0, residual=residual)
        elements = float(self.workload.elements(self.workload.sizes(removed_MG))[0])
        per_element = (dense_ms - layers) / elements if elements else 0.0
        return replace(self, per_element=per_element, residual=residual)

    def interval(self, predicted: float) -> tuple[float, float]:
        """Bound a prediction by the share of the dense model's time that its layers did not explain, at least 5 %.

        Args:
            predicted: Milliseconds.

        Returns:
            Lower and upper bound in milliseconds.
        """
        uncertainty = max(MIN_UNCERTAINTY, self.residual)
        return predicted * (1 - uncertainty), predicted * (1 + uncertainty)

    def preferred_multiples(self, groups: Sequence[ChannelGroup], most: int) -> IntArray:
        """Compute the multiples that kept widths should have, from the layers that read and write each group.

        Args:
            groups: The model's channel groups.
            most: Coarser steps count as this one.

        Returns:
            A number of channels for each group, (G,).
        """
        steps_G = np.ones(len(groups), dtype=np.int64)
        for index_W, steps_W in zip((self.workload.inputs_W, self.workload.outputs_W), self.steps_W, strict=True):
            for index, step in zip(index_W.tolist(), np.minimum(steps_W, most).tolist(), strict=True):
                for group in np.flatnonzero(self.workload.entries_DG[index]).tolist():
                    entries = round(self.workload.entries_DG[index, group])
                    steps_G[group] = math.lcm(int(steps_G[group]), step // math.gcd(step, entries))
        return steps_G


def _interpolation(
    widths_MW: FloatArray, levels_WL: FloatArray, steps_W: IntArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """The levels below and above each width, and its position between them as a share."""
    full_W = np.where(np.isfinite(levels_WL), levels_WL, 0).max(axis=1)
    paid = np.minimum(np.ceil(widths_MW / steps_W) * steps_W, full_W)
    below = (paid[..., None] >= levels_WL).sum(axis=2) - 1
    last_W = np.isfinite(levels_WL).sum(axis=1) - 1
    low = np.clip(below, 0, np.maximum(last_W - 1, 0))
    high = np.minimum(low + 1, last_W)
    at = np.arange(len(last_W))
    span = np.where(high > low, levels_WL[at, high] - levels_WL[at, low], 1.0)
    share = np.where(high > low, (paid - levels_WL[at, low]) / span, 0.0)
    return low, high, share


def layers_that_change(work: ActivationSizes, groups: Sequence[ChannelGroup]) -> list[tuple[bool, bool]]:
    """Determine which layers can become narrower.

    Args:
        work: The layers of the model.
        groups: Its channel groups.

    Returns:
        For each layer, whether its inputs and whether its outputs can become fewer.
    """
    free_G = np.array([group.frozen is None for group in groups], dtype=bool)
    follows_D = np.asarray((work.entries_DG[:, free_G] > 0).any(axis=1))
    return list(zip(follows_D[work.inputs_W].tolist(), follows_D[work.outputs_W].tolist(), strict=True))


def layers_to_benchmark(
    work: ActivationSizes, groups: Sequence[ChannelGroup], step: WidthSteps, shares: Sequence[float] = LEVELS
) -> list[Layer]:
    """List the layers, at every width of their grids, whose times the latency model needs.

    Args:
        work: The layers of the model.
        groups: Its channel groups.
        step: The multiples that a layer's time grows in.
        shares: Levels of a width, as shares of the full one.

    Returns:
        The layers to time.
    """
    return [layer for grid in _grids(work, groups, step, shares) for row in grid.layers() for layer in row]


def fit_latency_model(
    work: ActivationSizes,
    groups: Sequence[ChannelGroup],
    step: WidthSteps,
    times: Times,
    shares: Sequence[float] = LEVELS,
) -> LatencyModel:
    """Build the latency model from measured times.

    Args:
        work: The layers of the model.
        groups: Its channel groups.
        step: The multiples that a layer's time grows in.
        times: Milliseconds of every layer of `layers_to_benchmark`.
        shares: Levels of a width, as shares of the full one.

    Returns:
        The model, not yet calibrated to the dense model's time.
    """
    grids = _grids(work, groups, step, shares)
    count = len(shares)
    ms_WLL = np.zeros((len(grids), count, count))
    levels = np.full((2, len(grids), count), np.inf)
    for index, grid in enumerate(grids):
        for axis, values in enumerate((grid.inputs, grid.outputs)):
            levels[axis, index, : len(values)] = values
        for row, layers in enumerate(grid.layers()):
            ms_WLL[index, row, : len(layers)] = [times[layer] for layer in layers]
    steps = np.array([grid.steps for grid in grids], dtype=np.int64).reshape(-1, 2)
    names = tuple(group.name for group in groups)
    return LatencyModel(names, work, (levels[0], levels[1]), (steps[:, 0], steps[:, 1]), ms_WLL)


@dataclass(frozen=True, slots=True)
class _Grid:
    layer: Layer
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[int, int]

    def layers(self) -> list[list[Layer]]:
        """By inputs, then by outputs; a depthwise layer's outputs follow its inputs."""
        ratio = self.layer.out_channels // self.layer.in_channels
        if self.layer.is_depthwise:
            return [[self.layer.resized(width, width * ratio)] for width in self.inputs]
        return [[self.layer.resized(a, b) for b in self.outputs] for a in self.inputs]


def _grids(
    work: ActivationSizes, groups: Sequence[ChannelGroup], step: WidthSteps, shares: Sequence[float]
) -> list[_Grid]:
    grids = []
    for layer, (fewer_in, fewer_out) in zip(work.layers, layers_that_change(work, groups), strict=True):
        widths, rewarded = (layer.in_channels, layer.out_channels), step(layer)
        steps = _step_within(rewarded[0], widths[0]), _step_within(rewarded[1], widths[1])
        inputs = _levels(widths[0], layer, steps[0], shares if fewer_in else ())
        outputs = _levels(widths[1], layer, steps[1], shares if fewer_out else ())
        grids.append(_Grid(layer, inputs, (layer.out_channels,) if layer.is_depthwise else outputs, steps))
    return grids


def _step_within(step: int, width: int) -> int:
    """The power of two up to a quarter of a width, or `step` where that is less.

    Steps are measured on layers of medium width; narrower ones are timed at several widths all the same.
    """
    return min(step, 1 << max(0, (width // 4).bit_length() - 1))


def _levels(width: int, layer: Layer, step: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Widths to time, on the steps; the full width alone where it cannot change."""
    if not shares:
        return (width,)
    unit = step if layer.is_depthwise else math.lcm(step, layer.groups)
    return tuple(sorted({min(width, math.ceil(share * width / unit) * unit) for share in shares}))
