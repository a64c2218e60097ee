"""What a plan takes on a device: times of the model's layers over their widths, and the steps in them.

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
LEAST_DOUBT = 0.05
LEAST = 0.02  # share of a layer's time that is left however narrow it gets

Times = Mapping[Layer, float]
Step = Callable[[Layer], tuple[int, int]]
"""a layer of the model -> its inputs and outputs are paid for in multiples of these"""


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Milliseconds of a plan on one device: the sum of its layers, and so much for each element other operators write.

    A layer's time is read off a grid of measured times, bilinearly between its levels, at widths rounded up to what
    the device rewards: `time(ceil(inputs / step) * step, ceil(outputs / step) * step)`.
    """

    groups: tuple[str, ...]
    workload: ActivationSizes
    levels_WL: tuple[FloatArray, FloatArray]  # of inputs and outputs, padded with infinity
    steps_W: tuple[IntArray, IntArray]
    ms_WLL: FloatArray
    per_element: float = 0.0
    residual: float = 0.0  # share of the whole model's time that its layers did not explain, or explained too much

    def ms(self, removed_MG: IntArray) -> FloatArray:
        """Predicted milliseconds (M,) of plans that remove so many channels from each group."""
        sizes = self.workload.sizes(removed_MG)
        total: FloatArray = self._layers(sizes).sum(axis=1) + self.per_element * self.workload.elements(sizes)
        return total

    def _layers(self, sizes: FloatArray) -> FloatArray:
        """Milliseconds of each layer, (M, W)."""
        work = self.workload
        widths = [np.ceil(sizes[:, index] - 1e-9) for index in (work.inputs_W, work.outputs_W)]
        found = [_place(*each) for each in zip(widths, self.levels_WL, self.steps_W, strict=True)]
        (in_low, in_high, in_t), (out_low, out_high, out_t) = found
        at = np.arange(len(work.layers))
        low = (1 - in_t) * self.ms_WLL[at, in_low, out_low] + in_t * self.ms_WLL[at, in_high, out_low]
        high = (1 - in_t) * self.ms_WLL[at, in_low, out_high] + in_t * self.ms_WLL[at, in_high, out_high]
        layers = np.maximum((1 - out_t) * low + out_t * high, LEAST * self.ms_WLL.max(axis=(1, 2)))
        whole = work.sizes(np.zeros((1, work.entries_DG.shape[1]), dtype=np.int64))
        times: FloatArray = layers * sizes[:, work.places].prod(axis=2) / whole[:, work.places].prod(axis=2)
        return times

    def predict(self, plan: PrunePlan) -> float:
        """Milliseconds of one plan."""
        return float(self.ms(removed_counts(self.groups, plan)[None])[0])

    def bottlenecks(self, plan: PrunePlan, groups: Sequence[ChannelGroup]) -> dict[str, float]:
        """What keeps a plan from being faster, as shares of time.

        `fixed`: of the plan's, in layers none of whose widths can change; `between`: of the plan's, in other operators;
        `least`: of the whole model's, that is left when everything goes that can.
        """
        removed_MG = np.stack(
            [removed_counts(self.groups, plan), [0 if each.frozen else each.size - 1 for each in groups]]
        )
        sizes = self.workload.sizes(removed_MG)
        total, least = self.ms(removed_MG).tolist()
        one_level_W = [np.isfinite(levels_WL).sum(axis=1) == 1 for levels_WL in self.levels_WL]
        return {
            "fixed": float(self._layers(sizes)[0] @ (one_level_W[0] & one_level_W[1])) / total,
            "between": self.per_element * float(self.workload.elements(sizes)[0]) / total,
            "least": least / self.predict(PrunePlan({})),
        }

    def calibrated(self, dense_ms: float) -> LatencyModel:
        """With what the layers leave residual of the whole model's time spread over the other operators' elements;
        where nothing is left, every layer takes its share less."""
        none = np.zeros((1, self.workload.entries_DG.shape[1]), dtype=np.int64)
        layers = float(replace(self, per_element=0.0).ms(none)[0])
        residual = abs(dense_ms - layers) / dense_ms
        if layers > dense_ms:
            return replace(self, ms_WLL=self.ms_WLL * (dense_ms / layers), per_element=0.0, residual=residual)
        elements = float(self.workload.elements(self.workload.sizes(none))[0])
        per_element = (dense_ms - layers) / elements if elements else 0.0
        return replace(self, per_element=per_element, residual=residual)

    def interval(self, predicted: float) -> tuple[float, float]:
        """What a prediction may miss by: the share of the dense model's time that its layers did not explain, and
        no less than 5 %."""
        reach = max(LEAST_DOUBT, self.residual)
        return predicted * (1 - reach), predicted * (1 + reach)

    def preferred_multiples(self, groups: Sequence[ChannelGroup], most: int) -> IntArray:
        """The number of channels that each group should keep a multiple of, by the layers its channels go through.

        Steps coarser than `most` are taken as `most`.
        """
        steps_G = np.ones(len(groups), dtype=np.int64)
        for index_W, steps_W in zip((self.workload.inputs_W, self.workload.outputs_W), self.steps_W, strict=True):
            for index, step in zip(index_W.tolist(), np.minimum(steps_W, most).tolist(), strict=True):
                for group in np.flatnonzero(self.workload.entries_DG[index]).tolist():
                    entries = round(self.workload.entries_DG[index, group])
                    steps_G[group] = math.lcm(int(steps_G[group]), step // math.gcd(step, entries))
        return steps_G


def _place(widths_MW: FloatArray, levels_WL: FloatArray, steps_W: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Levels below and above each width, and how far it is from the one to the other."""
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
    """Of each layer, whether its inputs and its outputs can become fewer."""
    free_G = np.array([group.frozen is None for group in groups], dtype=bool)
    follows_D = np.asarray((work.entries_DG[:, free_G] > 0).any(axis=1))
    return list(zip(follows_D[work.inputs_W].tolist(), follows_D[work.outputs_W].tolist(), strict=True))


def layers_to_benchmark(
    work: ActivationSizes, groups: Sequence[ChannelGroup], step: Step, shares: Sequence[float] = LEVELS
) -> list[Layer]:
    """The layers, at every width of their grids, whose times make the surface."""
    return [layer for grid in _grids(work, groups, step, shares) for row in grid.layers() for layer in row]


def fit_latency_model(
    work: ActivationSizes, groups: Sequence[ChannelGroup], step: Step, times: Times, shares: Sequence[float] = LEVELS
) -> LatencyModel:
    """The surface that these times make."""
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
        if is_depthwise(self.layer):
            return [[self.layer.resized(width, width * ratio)] for width in self.inputs]
        return [[self.layer.resized(a, b) for b in self.outputs] for a in self.inputs]


def _grids(work: ActivationSizes, groups: Sequence[ChannelGroup], step: Step, shares: Sequence[float]) -> list[_Grid]:
    grids = []
    for layer, (fewer_in, fewer_out) in zip(work.layers, layers_that_change(work, groups), strict=True):
        steps = step(layer)
        inputs = _levels(layer.in_channels, layer, steps[0], shares if fewer_in else ())
        outputs = _levels(layer.out_channels, layer, steps[1], shares if fewer_out else ())
        grids.append(_Grid(layer, inputs, (layer.out_channels,) if is_depthwise(layer) else outputs, steps))
    return grids


def _levels(width: int, layer: Layer, step: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Widths to time, on the steps; the one there is where it can't change."""
    if not shares:
        return (width,)
    unit = step if is_depthwise(layer) else math.lcm(step, layer.groups)
    return tuple(sorted({min(width, math.ceil(share * width / unit) * unit) for share in shares}))


def is_depthwise(layer: Layer) -> bool:
    return layer.groups == layer.in_channels > 1
