"""Latency over minutes: what is left of the speed once the device is hot."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np

from compressor.bench.compare import clock_frequency
from compressor.bench.device.protocol import Job
from compressor.bench.device.session import Device
from compressor.core import SustainedLoad

WINDOW = 1.0  # s
EDGE = 0.2  # of the time, at either end, that "at first" and "at last" are the medians of


def measure_sustained(device: Device, model: Path, *, batch: int, seconds: float) -> SustainedLoad:
    """One process that runs the model without a pause for `seconds`. Raises what `Device.run` does."""
    windows = max(10, round(seconds / WINDOW))
    job = Job((model,), window_s=seconds / windows, windows=windows, batch=batch, timeout=2 * seconds + 60)
    (timing,) = device.run(job)
    by_cpu, _ = clock_frequency(device, [timing])
    return slowdown_per_minute([median(window) for window in (timing.cpu if by_cpu else timing.wall)], seconds)


def slowdown_per_minute(medians: list[float], seconds: float) -> SustainedLoad:
    """Medians of the first and the last fifth, and the slope in % a minute of the first: the median of the slopes
    between all pairs of windows, which a few disturbed ones do not move (Sen, JASA 63, 1968)."""
    edge = max(1, round(EDGE * len(medians)))
    first, last = median(medians[:edge]), median(medians[-edge:])
    times = np.arange(len(medians)) * seconds / len(medians) / 60
    i, j = np.triu_indices(len(medians), 1)
    values = np.asarray(medians)
    slope = float(np.median((values[j] - values[i]) / (times[j] - times[i])))
    return SustainedLoad(seconds, first, last, 100 * slope / first)
