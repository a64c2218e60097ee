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
    timeout: float = 300.0  # s, for the whole job


@dataclass(frozen=True, slots=True)
class Timing:
    """One model of a job: milliseconds of each run by two clocks, as [window][run]."""

    wall: tuple[tuple[float, ...], ...]
    cpu: tuple[tuple[float, ...], ...]  # CPU time of the calling thread, which stands still while others have its CPU
    session_ms: float
    first_run_ms: float
    warm: bool  # False = still drifting when the warm-up's limit was reached

    @property
    def cpu_share(self) -> float:
        """Share of its CPU that the typical run had; a few disturbed runs leave the medians as they are."""
        return median(sum(self.cpu, ())) / median(sum(self.wall, ()))
