"""Times layers and whole models on a device, for latency targets."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from statistics import median
from time import monotonic

import onnx
from torch import nn

from compressor.bench.device.device import Device
from compressor.bench.device.protocol import Clock, Job, Timing
from compressor.bench.device.session import RunnerSession
from compressor.bench.layer_latency import measure_layers, reference_model
from compressor.bench.statistics import ratio_interval
from compressor.bench.synthetic_models import IMAGE_CHANNELS
from compressor.bench.timed_inputs import TimedInputs, named_samples, write_timed_inputs
from compressor.bench.width_multiples import WIDTHS, coarsest_free_step
from compressor.budget.latency_model import (
    FEW_LEVELS,
    LEVELS,
    LatencyModel,
    WidthSteps,
    fit_latency_model,
    layers_that_change,
    layers_to_benchmark,
)
from compressor.core import EventSink, Layer, LoadedModel
from compressor.graph.dependency_graph import DependencyGraph
from compressor.models.export_model import model_exporter
from compressor.models.inputs.example_inputs import example_inputs
from compressor.recipe import Recipe
from compressor.steps.latency_probe import DeviceSession, LatencyPair, known_well

ROUNDS = 8  # models that are measured for a latency target at most
MIN_PROCESSES, MAX_PROCESSES = 4, 24  # for each pair; fewer could agree by chance
PAIR_SECONDS = 45.0  # after which no further process is started for a pair
WINDOWS, WINDOW_SECONDS, WARM_SECONDS = 8, 0.06, 0.1
MAX_WIDTH = 256  # of one side of a layer while the other side is varied


def timing_conditions(recipe: Recipe, device: Device | None) -> str | None:
    """Describe the device and the batch size that decisions by latency depend on.

    Args:
        recipe: Its first batch size is timed.
        device: The device.

    Returns:
        A text; decisions by latency are repeated only where it is equal; None where the recipe has no latency target.
    """
    if device is None or not recipe.pruning_target().has_latency_target:
        return None
    return f"{device.description}, batches of {recipe.bench.batch[0]}"


def latency_probe(
    recipe: Recipe, device: Device | None, model: LoadedModel, emit: EventSink, *, rounds: int = ROUNDS
) -> DeviceTimer | None:
    """Make the probe that latency targets are met with. It exports like the run, at the recipe's first batch size.

    A batch of one is exported with a fixed batch size: a free one takes the exporter three times as long, and the file
    runs no faster.

    Args:
        recipe: Its batch size and operator set are used.
        device: The device; None = nothing is measured.
        model: The dense model, whose inputs are used.
        emit: Receives the events of the measurements.
        rounds: Number of models to measure at most; 0 = only predict.

    Returns:
        The timer; None without a device.
    """
    if device is None:
        return None
    batch = recipe.bench.batch[0]
    inputs = example_inputs(model, images=2)
    exporter = model_exporter(model, inputs, opset=recipe.export.opset_version, dynamic_batch=batch > 1)
    return DeviceTimer(device, batch, rounds, named_samples(model, inputs), exporter.export, emit)


@dataclass(frozen=True, slots=True)
class DeviceTimer:
    """A `LatencyProbe`. `export` writes a module to an ONNX file as the run does: the given file where it is one."""

    device: Device
    batch: int
    rounds: int
    inputs: TimedInputs
    export: Callable[[nn.Module, Path], object]
    emit: EventSink

    @contextmanager
    def open(self) -> Iterator[DeviceSession]:
        """Hold the device for all of a search."""
        with self.device.open() as session, tempfile.TemporaryDirectory(prefix="compress-search-") as folder:
            levels = LEVELS if self.rounds else FEW_LEVELS  # predictions alone are given with their uncertainty
            inputs = write_timed_inputs(self.inputs, Path(folder))
            job = Job((), WINDOW_SECONDS, WINDOWS, WARM_SECONDS, self.batch, inputs)
            yield DeviceTimerSession(session, job, self.device.clock, levels, self.export, self.emit, Path(folder))


@dataclass(frozen=True, slots=True)
class TimeInTurn:
    """The time of a model, scaled by the reference that is timed with it, so that all times of a session compare."""

    ms: float
    reference_ms: float  # the same for all models of a session


@dataclass(slots=True)
class DeviceTimerSession:
    """A `DeviceSession` that keeps files and latency models while the device is held."""

    runner: RunnerSession
    job: Job  # its models are replaced
    clock: Clock  # see `Device.clock`
    levels: Sequence[float]  # shares of a layer's width that are timed
    export: Callable[[nn.Module, Path], object]
    emit: EventSink
    folder: Path
    # By id of the module or graph, which stays valid because the entry holds the object itself.
    _dense_files: dict[int, tuple[nn.Module, Path]] = field(default_factory=dict)
    _models: dict[int, tuple[DependencyGraph, LatencyModel]] = field(default_factory=dict)
    _times: dict[int, TimeInTurn] = field(default_factory=dict)  # of the modules in `_dense_files`
    _slim_numbers: Iterator[int] = field(default_factory=count)

    def latency_model(self, graph: DependencyGraph, module: nn.Module) -> LatencyModel:
        """Time the layers of a model, once for each graph.

        Args:
            graph: The model's graph.
            module: The model; its time calibrates the sum of the layers.

        Returns:
            The model that predicts the latency of plans.

        Raises:
            DeviceUnavailable: The connection to the device is lost.
        """
        if id(graph) not in self._models:
            self._models[id(graph)] = graph, self._fit(graph, module)
        return self._models[id(graph)][1]

    def _fit(self, graph: DependencyGraph, module: nn.Module) -> LatencyModel:
        sizes, groups = graph.workload, graph.groups
        changing = layers_that_change(sizes, groups)
        step = self._steps([layer for layer, ends in zip(sizes.layers, changing, strict=True) if any(ends)])
        relative = self._relative_times(layers_to_benchmark(sizes, groups, step, self.levels))
        dense = self._time_in_turn(module)
        times = {layer: multiple * dense.reference_ms for layer, multiple in relative.items()}
        return fit_latency_model(sizes, groups, step, times, self.levels).calibrated(dense.ms)

    def time(self, module: nn.Module) -> float:
        """Time a model in turn with the reference of layers' times, once for each module.

        Args:
            module: The model.

        Returns:
            Its time as a multiple of the reference's, in milliseconds of the moment of the session's first timing.

        Raises:
            DeviceUnavailable: The connection to the device is lost.
        """
        return self._time_in_turn(module).ms

    def _time_in_turn(self, module: nn.Module) -> TimeInTurn:
        models = self._dense_file(module), self.folder / "reference.onnx"
        if id(module) not in self._times:
            onnx.save(reference_model(self.job.batch), models[1])
            runs = [self._in_turn(models, mirrored=index % 2 == 1) for index in range(MIN_PROCESSES)]
            ms, own_reference_ms = self._median(runs, 0), self._median(runs, 1)
            first = next(iter(self._times.values()), None)
            reference_ms = own_reference_ms if first is None else first.reference_ms
            self._times[id(module)] = TimeInTurn(ms / own_reference_ms * reference_ms, reference_ms)
        return self._times[id(module)]

    def measure_pair(
        self, dense: nn.Module, slim: nn.Module, is_enough: Callable[[LatencyPair], bool] = known_well
    ) -> LatencyPair:
        """Measure two models, window by window in turn, in as many processes as the decision needs.

        Args:
            dense: The original model.
            slim: The pruned model.
            is_enough: Whether the interval suffices; if it never does, measuring ends after 45 s or 24 processes.

        Returns:
            Medians of both, and the 95 % interval of the slim model's.

        Raises:
            DeviceUnavailable: The connection to the device is lost.
        """
        models, runs = (self._dense_file(dense), self._slim_file(slim)), list[tuple[Timing, ...]]()
        deadline = monotonic() + PAIR_SECONDS
        while True:
            runs.append(self._in_turn(models, mirrored=len(runs) % 2 == 1))
            if len(runs) < MIN_PROCESSES:
                continue
            pair = self._pair(runs)
            if is_enough(pair) or len(runs) >= MAX_PROCESSES or monotonic() > deadline:
                return pair

    def _pair(self, runs: Sequence[tuple[Timing, ...]]) -> LatencyPair:
        dense_ms, slim_ms = (
            [[median(window) for window in self._windows(run[side])] for run in runs] for side in (0, 1)
        )
        speedup, median_ms = ratio_interval(dense_ms, slim_ms), self._median(runs, 0)
        return LatencyPair(median_ms, median_ms / speedup.value, (median_ms / speedup.high, median_ms / speedup.low))

    def _dense_file(self, module: nn.Module) -> Path:
        if id(module) not in self._dense_files:
            path = self.folder / f"dense{len(self._dense_files)}.onnx"
            self.export(module, path)
            self._dense_files[id(module)] = module, path
        return self._dense_files[id(module)][1]

    def _slim_file(self, module: nn.Module) -> Path:
        """The file of a slim module; that of a dense module if it was exported as one."""
        if id(module) in self._dense_files:
            return self._dense_file(module)
        path = self.folder / f"slim{next(self._slim_numbers)}.onnx"  # a new name: the device keeps files by name
        self.export(module, path)
        return path

    def _in_turn(self, models: tuple[Path, Path], *, mirrored: bool) -> tuple[Timing, ...]:
        """Time two models in a new process, the second first if `mirrored`; alternating the order cancels drift."""
        step = -1 if mirrored else 1
        return self.runner.run(replace(self.job, models=models[::step]))[::step]

    def _windows(self, timing: Timing) -> Sequence[Sequence[float]]:
        return timing.windows(self.clock)

    def _median(self, runs: Sequence[Sequence[Timing]], side: int) -> float:
        return median(chain.from_iterable(chain.from_iterable(self._windows(run[side]) for run in runs)))

    def _relative_times(self, layers: Sequence[Layer]) -> Mapping[Layer, float]:
        """Times of layers as multiples of the reference's time."""
        return measure_layers(self.runner, layers, batch=self.job.batch, clock=self.clock, emit=self.emit)

    def _steps(self, layers: Sequence[Layer]) -> WidthSteps:
        """The preferred multiple of widths for each kind of layer, measured on its layer of median size."""
        by_kind: dict[Kind, list[Layer]] = defaultdict(list)
        for layer in filter(_can_be_scanned, layers):
            by_kind[_kind(layer)].append(layer)
        typical = {kind: sorted(members, key=_macs)[len(members) // 2] for kind, members in by_kind.items()}
        scans = {kind: (_scan(layer, 0), _scan(layer, 1)) for kind, layer in typical.items()}
        times = self._relative_times([layer for pair in scans.values() for scan in pair for layer in scan.values()])
        multiples = {kind: (_multiple(pair[0], times), _multiple(pair[1], times)) for kind, pair in scans.items()}
        for kind, pair in multiples.items():
            self.emit("steps", {"kind": str(kind), "steps": list(pair)})

        def step(layer: Layer) -> tuple[int, int]:
            same_operator = [pair for kind, pair in multiples.items() if kind[0] == layer.op]
            return multiples.get(_kind(layer)) or max(same_operator, default=(1, 1))

        return step


Kind = tuple[str, str, bool, bool]
"""operator, grouping, whether the kernel is larger than 1, whether there is more than one position"""


def _kind(layer: Layer) -> Kind:
    """Layers of one kind prefer the same multiples."""
    grouping = "depthwise" if layer.is_depthwise else "grouped" if layer.groups > 1 else "dense"
    return layer.op, grouping, max(layer.kernel, default=1) > 1, max(layer.spatial_shape) > 1


def _can_be_scanned(layer: Layer) -> bool:
    """Layers of an image are special, and the widths of grouped layers are multiples of the groups already."""
    return layer.in_channels > IMAGE_CHANNELS and (layer.groups == 1 or layer.is_depthwise)


def _macs(layer: Layer) -> int:
    return layer.in_channels * layer.out_channels // layer.groups * math.prod((*layer.kernel, *layer.spatial_shape))


def _scan(layer: Layer, axis: int) -> dict[int, Layer]:
    """The layer at many widths of its inputs (axis 0) or outputs (axis 1); the other side has a medium width."""
    widths = [width for multiples in WIDTHS.values() for width in multiples]
    if layer.is_depthwise:
        return {width: layer.resized(width, width * (layer.out_channels // layer.in_channels)) for width in widths}
    inputs, outputs = (min(max(width, min(widths)), MAX_WIDTH) for width in (layer.in_channels, layer.out_channels))
    return {width: layer.resized(width, outputs) if axis == 0 else layer.resized(inputs, width) for width in widths}


def _multiple(scan: Mapping[int, Layer], times: Mapping[Layer, float]) -> int:
    return coarsest_free_step([{width: times[layer] for width, layer in scan.items()}])
