"""Learning-rate schedules: functions from the epochs done so far (fractional) to a factor on the base rate.

None of them holds an optimizer or a state. Sizes, milestones and lengths are in epochs.

Of the retrainings the literature compares, four repeat a part of the ORIGINAL training, the one the dense model comes
from, so their base rate is that training's: `ft`, `lrw`, `slr` and `clr` (Renda, Frankle, Carbin, ICLR 2020,
arXiv:2003.02389; Le, Hua, ICLR 2021, arXiv:2105.03193). `halving` starts from a rate of its own (Wang et al.,
arXiv:2301.05219).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressor.training.settings import Schedule


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


def triangle(epochs: float, start: float) -> Schedule:
    """A line from `start` up to 1 at half of the epochs, and one back down (arXiv:1506.01186)."""
    return lambda done: start + (1 - start) * max(1 - abs(2 * done / epochs - 1), 0.0)


def polynomial(epochs: float, power: float = 1.0, end: float = 0.0) -> Schedule:
    """`f(t) = end + (1 - end) (1 - t / epochs) ** power`, then `end` (arXiv:1606.00915 with a power of 0.9)."""
    return lambda done: end + (1 - end) * max(1 - done / epochs, 0.0) ** power


# ---------------------------------------------------------------- repeating a part of the original training


def ft(original: Schedule, original_epochs: float) -> Schedule:
    """Fine-tuning: the rate of the original's last epoch, `f(t) = original(original_epochs - 1)`.

    Where rates change between epochs this is the last rate it trained with; a cosine ends one moment before nothing.
    """
    last = original(original_epochs - 1)
    return lambda done: last


def lrw(original: Schedule, original_epochs: float, epochs: float) -> Schedule:
    """Learning-rate rewinding: the last `epochs` of the original, `f(t) = original(original_epochs - epochs + t)`.

    Weights stay as they are. `epochs` is at most `original_epochs`.
    """
    return lambda done: original(original_epochs - epochs + done)


def slr(scaled: Schedule, rise: float, start: float) -> Schedule:
    """Scaled restart: half a cosine from `start` up to 1 over `rise` epochs, then `scaled`, counted from there.

    `scaled`: the original squeezed or stretched into the epochs that follow the rise, see `scaled_milestones`.
    """
    return lambda done: _cosine_between(start, 1.0, done / rise) if done < rise else scaled(done - rise)


def clr(epochs: float, rise: float = 0.1) -> Schedule:
    """Cyclic restart: one cycle from 0.01 of the original's base rate up to all of it, and down to 1e-4 of it."""
    return onecycle(epochs, rise, start=1e-2, end=1e-4)


def scaled_milestones(milestones: Sequence[float], original_epochs: float, epochs: float) -> tuple[int, ...]:
    """Milestones at the same shares of `epochs` as they had of `original_epochs`, rounded down to whole epochs."""
    almost = 1e-9  # 0.9 * 40 * 0.5 must not become 17 for want of one bit
    return tuple(math.floor(milestone * epochs / original_epochs + almost) for milestone in milestones)


# ---------------------------------------------------------------- P30F90, 1e-1


def halving(epochs: int, lr: float, end: float = 1e-5, longest: int = 30) -> Schedule:
    """The rate falls tenfold from stage to stage, from `lr` to `end`, at `halving_milestones`; never below `end`."""
    milestones = halving_milestones(epochs, lr, end, longest)
    return lambda done: max(0.1 ** sum(done >= milestone for milestone in milestones), end / lr)


def halving_milestones(epochs: int, lr: float, end: float = 1e-5, longest: int = 30) -> tuple[int, ...]:
    """Each stage takes half of the epochs that remain, rounded half up, but at most `longest`; the last takes the rest.

    There are as many drops as it takes to come from `lr` to `end` in tenfold steps.
    """
    drops = max(math.ceil(math.log10(lr / end) - 1e-9), 0)
    milestones = [0]
    for _ in range(drops):
        remaining = epochs - milestones[-1]
        milestones.append(milestones[-1] + min(math.floor(remaining / 2 + 0.5), longest))
    return tuple(milestones[1:])


# ---------------------------------------------------------------- before any of them


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
