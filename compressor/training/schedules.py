"""Learning-rate schedules: functions from the epochs done so far (fractional) to a factor on the base learning rate.

None of them holds an optimizer or a state. Sizes, milestones and lengths are in epochs.

Four of the retraining schedules in the literature repeat a part of the original training, the one that the dense model
comes from, so that their base rate is that of the original training: `ft`, `lrw`, `slr` and `clr` (Renda, Frankle and
Carbin, ICLR 2020, arXiv:2003.02389; Le and Hua, ICLR 2021, arXiv:2105.03193). `halving` has a base rate of its own
(Wang et al., arXiv:2301.05219).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressor.training.train_settings import Schedule


def constant() -> Schedule:
    """`f(t) = 1`."""
    return lambda done: 1.0


def step(size: float, gamma: float) -> Schedule:
    """`f(t) = gamma ** floor(t / size)`.

    Args:
        size: Epochs between two drops.
        gamma: Factor of each drop.

    Returns:
        The schedule.
    """
    return lambda done: gamma ** math.floor(done / size)


def multistep(milestones: Sequence[float], gamma: float) -> Schedule:
    """`f(t) = gamma ** (number of milestones reached at t)`.

    Args:
        milestones: The epochs of the drops.
        gamma: Factor of each drop.

    Returns:
        The schedule.
    """
    epochs = tuple(milestones)
    return lambda done: gamma ** sum(done >= milestone for milestone in epochs)


def cosine(epochs: float, end: float = 0.0) -> Schedule:
    """`f(t) = end + (1 - end) (1 + cos(pi t / epochs)) / 2`, then `end` (arXiv:1608.03983).

    Args:
        epochs: The length of the schedule.
        end: The factor at the end.

    Returns:
        The schedule.
    """
    return lambda done: _cosine_between(1.0, end, done / epochs)


def onecycle(epochs: float, rise: float = 0.3, start: float = 0.04, end: float = 1e-4) -> Schedule:
    """Half a cosine from `start` up to 1, then half a cosine down to `end` (arXiv:1708.07120).

    Args:
        epochs: The length of the schedule.
        rise: The share of it in which the rate rises.
        start: The factor at the start.
        end: The factor at the end.

    Returns:
        The schedule.
    """
    peak = rise * epochs

    def factor(done: float) -> float:
        if done < peak:
            return _cosine_between(start, 1.0, done / peak)
        return _cosine_between(1.0, end, (done - peak) / (epochs - peak)) if peak < epochs else 1.0

    return factor


def triangle(epochs: float, start: float) -> Schedule:
    """A line from `start` up to 1 at half of the epochs, then a line back down (arXiv:1506.01186).

    Args:
        epochs: The length of the schedule.
        start: The factor at the start and at the end.

    Returns:
        The schedule.
    """
    return lambda done: start + (1 - start) * max(1 - abs(2 * done / epochs - 1), 0.0)


def polynomial(epochs: float, power: float = 1.0, end: float = 0.0) -> Schedule:
    """`f(t) = end + (1 - end) (1 - t / epochs) ** power`, then `end` (arXiv:1606.00915 with a power of 0.9).

    Args:
        epochs: The length of the schedule.
        power: 1 gives a straight line.
        end: The factor at the end.

    Returns:
        The schedule.
    """
    return lambda done: end + (1 - end) * max(1 - done / epochs, 0.0) ** power


# ---------------------------------------------------------------- repeating a part of the original training


def ft(original: Schedule, original_epochs: float) -> Schedule:
    """Fine-tuning: `f(t) = original(original_epochs - 1)`, the rate of the original's last epoch.

    Where rates change between epochs, this is the last rate of the original training; a cosine ends just above zero.

    Args:
        original: The schedule of the original training.
        original_epochs: The length of the original training.

    Returns:
        The schedule.
    """
    last = original(original_epochs - 1)
    return lambda done: last


def lrw(original: Schedule, original_epochs: float, epochs: float) -> Schedule:
    """Learning-rate rewinding: `f(t) = original(original_epochs - epochs + t)`. Weights are not rewound.

    Args:
        original: The schedule of the original training.
        original_epochs: The length of the original training.
        epochs: The length of the schedule, at most `original_epochs`.

    Returns:
        The schedule.
    """
    return lambda done: original(original_epochs - epochs + done)


def slr(scaled: Schedule, rise: float, start: float) -> Schedule:
    """Scaled restart: half a cosine from `start` up to 1, then the original schedule in fewer or more epochs.

    Args:
        scaled: The original schedule in the epochs that follow the rise, see `scaled_milestones`.
        rise: Epochs of the rise.
        start: The factor at the start.

    Returns:
        The schedule.
    """
    return lambda done: _cosine_between(start, 1.0, done / rise) if done < rise else scaled(done - rise)


def clr(epochs: float, rise: float = 0.1) -> Schedule:
    """Cyclic restart: one cycle from 0.01 of the original base rate up to 1, then down to 1e-4.

    Args:
        epochs: The length of the schedule.
        rise: The share of it in which the rate rises.

    Returns:
        The schedule.
    """
    return onecycle(epochs, rise, start=1e-2, end=1e-4)


def scaled_milestones(milestones: Sequence[float], original_epochs: float, epochs: float) -> tuple[int, ...]:
    """Compute the milestones at the same shares of another training, rounded down to whole epochs.

    Args:
        milestones: The milestones of the original training.
        original_epochs: The length of the original training.
        epochs: The length of the other training.

    Returns:
        The milestones of the other training.
    """
    tolerance = 1e-9  # 0.9 * 40 * 0.5 is 18, although its float is a bit less
    return tuple(math.floor(milestone * epochs / original_epochs + tolerance) for milestone in milestones)


# ---------------------------------------------------------------- P30F90, 1e-1


def halving(epochs: int, lr: float, end: float = 1e-5, longest: int = 30) -> Schedule:
    """The rate falls tenfold at each of the `halving_milestones`, from `lr` to `end`, and never below `end`.

    Args:
        epochs: The length of the schedule.
        lr: The base rate.
        end: The rate of the last stage.
        longest: Epochs of a stage at most; the last stage may be longer.

    Returns:
        The schedule, as a factor on `lr`.
    """
    milestones = halving_milestones(epochs, lr, end, longest)
    return lambda done: max(0.1 ** sum(done >= milestone for milestone in milestones), end / lr)


def halving_milestones(epochs: int, lr: float, end: float = 1e-5, longest: int = 30) -> tuple[int, ...]:
    """Compute the milestones at which the rate falls tenfold.

    There are as many drops as `lr` needs to reach `end` in tenfold steps. Each stage takes half of the remaining
    epochs, rounded half up, but at most `longest`; the last stage takes the rest.

    Args:
        epochs: The length of the schedule.
        lr: The base rate.
        end: The rate of the last stage.
        longest: Epochs of a stage at most.

    Returns:
        The epochs of the drops.
    """
    drops = max(math.ceil(math.log10(lr / end) - 1e-9), 0)
    milestones = [0]
    for _ in range(drops):
        remaining = epochs - milestones[-1]
        milestones.append(milestones[-1] + min(math.floor(remaining / 2 + 0.5), longest))
    return tuple(milestones[1:])


# ---------------------------------------------------------------- before any of them


def warmup(schedule: Schedule, epochs: float, start: float = 0.0) -> Schedule:
    """A line from `start` to the factor of `schedule` after the first `epochs`, then `schedule` itself.

    Args:
        schedule: The schedule after the warm-up.
        epochs: The length of the warm-up.
        start: The factor at the start.

    Returns:
        The schedule.
    """

    def factor(done: float) -> float:
        if done >= epochs:
            return schedule(done)
        return start + (schedule(epochs) - start) * done / epochs

    return factor


def _cosine_between(first: float, last: float, progress: float) -> float:
    """Half a cosine from `first` to `last` as `progress` rises from 0 to 1; constant outside."""
    inside = min(max(progress, 0.0), 1.0)
    return last + (first - last) * (1 + math.cos(math.pi * inside)) / 2
