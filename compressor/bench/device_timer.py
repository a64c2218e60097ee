"""Asks the target device how long layers and whole models take."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from statistics import median, stdev

from torch import nn

from compressor.bench.device.protocol import Job, Timing
from compressor.bench.device.session import Device
from compressor.bench.device.target import DeviceTarget
from compressor.bench.layer_latency import RAW, measure_layers
from compressor.bench.statistics import ratio_interval
from compressor.bench.width_multiples import WIDTHS, coarsest_free_step
from compressor.budget.latency_model import (
    FEW_LEVELS,
    LEVELS,
    LatencyModel,
    Step,
    fit_latency_model,
    is_depthwise,
    layers_that_change,
    layers_to_benchmark,
)
from compressor.core import EventSink, Layer
from compressor.graph.dependency_graph import DependencyGraph
from compressor.steps.latency_search import DeviceSession, LatencyPair

LEAST_PROCESSES, MOST_PROCESSES = 4, 8  # of each model; fewer can agree by chance
SURE = 0.004  # standard error of a log ratio, over processes, that needs no further process
WINDOWS, WINDOW_SECONDS, WARM_SECONDS = 4, 0.12, 0.1
CAP = 256  # channels of the other side while the steps of one side are timed


@dataclass(frozen=True, slots=True)
class DeviceTimer:
    """The stopwatch of a target; `export` writes a module to an ONNX file the way the run does."""

    target: DeviceTarget
    batch: int
    rounds: int
    export: Callable[[nn.Module, Path], object]
    emit: EventSink

    @contextmanager
    def started(self) -> Iterator[DeviceSession]:
        """Hold the device for the whole of a search."""
        with self.target.opened() as device, tempfile.TemporaryDirectory(prefix="compress-search-") as folder:
            single = self.target.threads == 1 and self.target.provider == "cpu"
            levels = LEVELS if self.rounds else FEW_LEVELS  # what is only predicted is told with its doubt
            yield DeviceTimerSession(device, self.batch, single, levels, self.export, self.emit, Path(folder))


@dataclass(slots=True)
class DeviceTimerSession:
    device: Device
    batch: int
    single: bool  # the CPU time of one thread is its time, whoever else uses the CPU
    levels: Sequence[float]  # shares of a layer's width that are timed
    export: Callable[[nn.Module, Path], object]
    emit: EventSink
    folder: Path
    _dense: dict[int, Path] = field(default_factory=dict)
    _surfaces: dict[int, tuple[DependencyGraph, LatencyModel]] = field(default_factory=dict)
    _number: Iterator[int] = field(default_factory=count)

    def surface(self, structure: DependencyGraph, dense: nn.Module) -> LatencyModel:
        """Measured once for each structure. Raises what `Device.run` raises."""
        if id(structure) not in self._surfaces:
            self._surfaces[id(structure)] = structure, self._surface(structure, dense)
        return self._surfaces[id(structure)][1]

    def _surface(self, structure: DependencyGraph, dense: nn.Module) -> LatencyModel:
        work, groups = structure.workload, structure.groups
        ends = layers_that_change(work, groups)
        step = self._steps([layer for layer, fewer in zip(work.layers, ends, strict=True) if any(fewer)])
        times = self._times(layers_to_benchmark(work, groups, step, self.levels))
        alone = [(self._run(self._file(dense)),) for _ in range(LEAST_PROCESSES)]
        return fit_latency_model(work, groups, step, times, self.levels).calibrated(self._median(alone, 0))

    def pair(self, dense: nn.Module, slim: nn.Module) -> LatencyPair:
        """In turn, each in processes of its own, as it will be served: beside another model it would find the caches
        full of that one's weights, which costs the larger one more.

        There are more processes as long as they disagree.
        """
        path = self.folder / f"slim{next(self._number)}.onnx"  # a device knows files by their names
        self.export(slim, path)
        runs: list[tuple[Timing, Timing]] = []
        while len(runs) < LEAST_PROCESSES or (len(runs) < MOST_PROCESSES and self._doubt(runs) > SURE):
            runs.append(self._in_turn(self._file(dense), path, mirrored=len(runs) % 2 == 1))
        windows = [[median(window) for each in runs for window in self._clock(each[place])] for place in (0, 1)]
        faster = ratio_interval(windows[0], windows[1])
        dense_ms = self._median(runs, 0)
        return LatencyPair(dense_ms, dense_ms / faster.value, (dense_ms / faster.high, dense_ms / faster.low))

    def _file(self, dense: nn.Module) -> Path:
        if id(dense) not in self._dense:
            path = self.folder / f"dense{len(self._dense)}.onnx"
            self.export(dense, path)
            self._dense[id(dense)] = path
        return self._dense[id(dense)]

    def _doubt(self, runs: Sequence[Sequence[Timing]]) -> float:
        """Standard error of the log of dense / slim, a process being one observation."""
        logs = [math.log(self._median([each], 0) / self._median([each], 1)) for each in runs]
        return stdev(logs) / math.sqrt(len(logs))

    def _in_turn(self, a: Path, b: Path, *, mirrored: bool) -> tuple[Timing, Timing]:
        """AB, or BA in every second round, so that drift takes neither side."""
        if mirrored:
            second, first = self._run(b), self._run(a)
        else:
            first, second = self._run(a), self._run(b)
        return first, second

    def _run(self, path: Path) -> Timing:
        """In a new process."""
        return self.device.run(Job((path,), WINDOW_SECONDS, WINDOWS, WARM_SECONDS, self.batch))[0]

    def _clock(self, timing: Timing) -> Sequence[Sequence[float]]:
        return timing.cpu if self.single else timing.wall

    def _median(self, runs: Sequence[Sequence[Timing]], place: int) -> float:
        return median(chain.from_iterable(chain.from_iterable(self._clock(each[place]) for each in runs)))

    def _times(self, layers: Sequence[Layer]) -> dict[Layer, float]:
        return dict(measure_layers(self.device, layers, batch=self.batch, single=self.single, emit=self.emit))

    def _steps(self, layers: Sequence[Layer]) -> Step:
        """The preferred width multiple of each kind of layer, by `coarsest_free_step` on one layer of that kind."""
        kinds: dict[Kind, list[Layer]] = defaultdict(list)
        for layer in filter(_scannable, layers):
            kinds[_kind(layer)].append(layer)
        of_kind = {kind: sorted(some, key=_work)[len(some) // 2] for kind, some in kinds.items()}
        scans = {kind: (_scan(layer, 0), _scan(layer, 1)) for kind, layer in of_kind.items()}
        times = self._times([layer for pair in scans.values() for scan in pair for layer in scan.values()])
        found = {kind: (_read(inputs, times), _read(outputs, times)) for kind, (inputs, outputs) in scans.items()}
        for kind, steps in found.items():
            self.emit("steps", {"kind": str(kind), "steps": list(steps)})

        def step(layer: Layer) -> tuple[int, int]:
            alike = [steps for kind, steps in found.items() if kind[0] == layer.op]
            return found.get(_kind(layer)) or max(alike, default=(1, 1))

        return step


Kind = tuple[str, str, bool, bool]


def _kind(layer: Layer) -> Kind:
    """Layers of a kind have the same steps."""
    grouped = "depthwise" if is_depthwise(layer) else "grouped" if layer.groups > 1 else "dense"
    return layer.op, grouped, max(layer.kernel, default=1) > 1, max(layer.places) > 1


def _scannable(layer: Layer) -> bool:
    """A layer that reads the image is unlike the others, and widths of groups are steps already."""
    return layer.inputs > RAW and (layer.groups == 1 or is_depthwise(layer))


def _work(layer: Layer) -> int:
    size = layer.inputs * layer.outputs // layer.groups
    for each in (*layer.kernel, *layer.places):
        size *= each
    return size


def _scan(layer: Layer, axis: int) -> dict[int, Layer]:
    """The layer at widths of every step, of its inputs or its outputs; the other side neither narrow nor wide."""
    widths = [width for some in WIDTHS.values() for width in some]
    if is_depthwise(layer):
        return {width: layer.resized(width, width * (layer.outputs // layer.inputs)) for width in widths}
    a, b = (min(max(each, min(widths)), CAP) for each in (layer.inputs, layer.outputs))
    return {width: layer.resized(width, b) if axis == 0 else layer.resized(a, width) for width in widths}


def _read(scan: Mapping[int, Layer], times: Mapping[Layer, float]) -> int:
    return coarsest_free_step([{width: times[layer] for width, layer in scan.items()}])
