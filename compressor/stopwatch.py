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

from compressor.core import Emit, Layer
from compressor.deploy.device import Device
from compressor.deploy.job import Job, Timing
from compressor.deploy.layers import RAW, layer_times
from compressor.deploy.staircase import WIDTHS, step_rewarded
from compressor.deploy.statistics import ratio_of
from compressor.deploy.target import Target
from compressor.engine.search import Clock, Pair
from compressor.graph.couple import Structure
from compressor.graph.surface import FEW_LEVELS, LEVELS, CostSurface, Step, changing, is_depthwise, surface, to_time

LEAST_PROCESSES, MOST_PROCESSES = 4, 8  # of each model; fewer can agree by chance
SURE = 0.004  # standard error of a log ratio, over processes, that needs no further process
WINDOWS, WINDOW_SECONDS, WARM_SECONDS = 4, 0.12, 0.1
CAP = 256  # channels of the other side while the steps of one side are timed


@dataclass(frozen=True, slots=True)
class DeviceStopwatch:
    """The stopwatch of a target; `export` writes a module to an ONNX file the way the run does."""

    target: Target
    batch: int
    rounds: int
    export: Callable[[nn.Module, Path], object]
    emit: Emit

    @contextmanager
    def started(self) -> Iterator[Clock]:
        """Hold the device for the whole of a search."""
        with self.target.opened() as device, tempfile.TemporaryDirectory(prefix="compress-search-") as folder:
            single = self.target.threads == 1 and self.target.provider == "cpu"
            levels = LEVELS if self.rounds else FEW_LEVELS  # what is only predicted is told with its doubt
            yield DeviceClock(device, self.batch, single, levels, self.export, self.emit, Path(folder))


@dataclass(slots=True)
class DeviceClock:
    device: Device
    batch: int
    single: bool  # the CPU time of one thread is its time, whoever else uses the CPU
    levels: Sequence[float]  # shares of a layer's width that are timed
    export: Callable[[nn.Module, Path], object]
    emit: Emit
    folder: Path
    _dense: dict[int, Path] = field(default_factory=dict)
    _surfaces: dict[int, tuple[Structure, CostSurface]] = field(default_factory=dict)
    _number: Iterator[int] = field(default_factory=count)

    def surface(self, structure: Structure, dense: nn.Module) -> CostSurface:
        """Measured once for each structure. Raises what `Device.run` raises."""
        if id(structure) not in self._surfaces:
            self._surfaces[id(structure)] = structure, self._surface(structure, dense)
        return self._surfaces[id(structure)][1]

    def _surface(self, structure: Structure, dense: nn.Module) -> CostSurface:
        work, groups = structure.workload, structure.groups
        ends = changing(work, groups)
        step = self._steps([layer for layer, fewer in zip(work.layers, ends, strict=True) if any(fewer)])
        times = self._times(to_time(work, groups, step, self.levels))
        alone = [(self._run(self._file(dense)),) for _ in range(LEAST_PROCESSES)]
        return surface(work, groups, step, times, self.levels).calibrated(self._median(alone, 0))

    def pair(self, dense: nn.Module, slim: nn.Module) -> Pair:
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
        faster = ratio_of(windows[0], windows[1])
        dense_ms = self._median(runs, 0)
        return Pair(dense_ms, dense_ms / faster.value, (dense_ms / faster.high, dense_ms / faster.low))

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
        return dict(layer_times(self.device, layers, batch=self.batch, single=self.single, emit=self.emit))

    def _steps(self, layers: Sequence[Layer]) -> Step:
        """Which widths the device rewards, for each kind of layer: the rule of `step_rewarded` on one of the kind."""
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
    return step_rewarded([{width: times[layer] for width, layer in scan.items()}])
