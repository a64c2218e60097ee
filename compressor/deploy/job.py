"""What a device is asked to time, and what it answers: plain records, the same for every kind of device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Job:
    """ONNX files that one fresh process on the device times in turn, window by window, so drift meets all alike.

    Each is warmed up for `warm_s` and then until it is stable; a window lasts `window_s` and at least five runs.
    """

    models: tuple[Path, ...]
    window_s: float
    windows: int = 1
    warm_s: float = 0.3
    batch: int = 1
    inputs: Path | None = None  # .npy of real inputs (n, ...) for the first input; None = seeded normal
    references: tuple[Path, ...] = ()  # of each model, what its outputs must be (see reference.py); empty = finite
    timeout: float = 300.0  # s, for the whole job


@dataclass(frozen=True, slots=True)
class Timing:
    """One model of a job: milliseconds of each run by two clocks, as [window][run]."""

    wall: tuple[tuple[float, ...], ...]
    cpu: tuple[tuple[float, ...], ...]  # CPU time of the calling thread, which stands still while others have its CPU
    session_ms: float
    first_run_ms: float
    warm: bool  # False = still drifting when the warm-up's limit was reached
    energy_j: float | None = None  # of one run, by the meters of the whole package or board; None = no meter
    output_error: float | None = None  # largest difference from the reference, relative; None = no reference
    peak_bytes: int = 0  # memory of the process at its most, above that of an empty one; of all the job's models
    mhz: float | None = None  # of the CPUs at the end, where the kernel tells

    @property
    def cpu_share(self) -> float:
        """Share of its CPU that the typical run had; a few disturbed runs leave the medians as they are."""
        return median(sum(self.cpu, ())) / median(sum(self.wall, ()))


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One operator of the optimised graph: microseconds in a run, and the bytes it reads and writes."""

    name: str
    op: str
    provider: str
    bytes: int
    us: float
