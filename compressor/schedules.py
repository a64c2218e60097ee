"""Learning-rate schedules: functions from the epochs done so far (fractional) to a factor on the base rate.

None of them holds an optimizer or a state. Sizes, milestones and lengths are in epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressor.core import Schedule


def constant() -> Schedule:
    """`f(t) = 1`."""
    return lambda done: 1.0


def step(size: float, gamma: float) -> Schedule:
    """`f(t) = gamma ** floor(t / size)`: times `gamma` every `size` epochs."""
    return lambda done: gamma ** math.floor(done / size)


def multistep(milestones: Sequence[float], gamma: float) -> Schedule:
    """`f(t) = gamma ** (milestones reached at t)`."""
    reached = tuple(milestones)
    return lambda done: gamma ** sum(done >= milestone for milestone in reached)


def cosine(epochs: float, end: float = 0.0) -> Schedule:
    """`f(t) = end + (1 - end) (1 + cos(pi t / epochs)) / 2`, then `end` (arXiv:1608.03983)."""
    return lambda done: _cosine_between(1.0, end, done / epochs)


def onecycle(epochs: float, rise: float = 0.3, start: float = 0.04, end: float = 1e-4) -> Schedule:
    """Half a cosine from `start` up to 1 over `rise * epochs`, then one down to `end` (arXiv:1708.07120).

    The peak is the optimizer's `lr` itself; `start` and `end` are shares of that peak.
    """
    peak = rise * epochs

    def factor(done: float) -> float:
        if done < peak:
            return _cosine_between(start, 1.0, done / peak)
        return _cosine_between(1.0, end, (done - peak) / (epochs - peak)) if peak < epochs else 1.0

    return factor


def warmup(schedule: Schedule, epochs: float, start: float = 0.0) -> Schedule:
    """A line from `start` to what `schedule` says after the first `epochs`; from there `schedule` itself."""

    def factor(done: float) -> float:
        if done >= epochs:
            return schedule(done)
        return start + (schedule(epochs) - start) * done / epochs

    return factor


def _cosine_between(first: float, last: float, progress: float) -> float:
    """Half a cosine from `first` to `last` as `progress` goes from 0 to 1; clamped outside."""
    inside = min(max(progress, 0.0), 1.0)
    return last + (first - last) * (1 + math.cos(math.pi * inside)) / 2
