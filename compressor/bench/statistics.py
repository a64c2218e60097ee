"""Statistics of latency: medians and ratios with 95 % intervals, the verdict of a comparison, and a trend.

A block holds the milliseconds of the runs of one model in one process, in windows. A round holds one block of each arm
(model), measured window by window in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from compressor.core import SustainedLoad, Verdict, VerdictKind

RESAMPLES = 2000
MIN_BOOTSTRAP = 6  # rounds, from which the bootstrap alone gives a 95 % interval
QUANTILES = 200  # that represent a block when blocks are resampled
P90_RUNS, P99_RUNS = 1_000, 10_000  # at least: 100 samples in the tail

MAX_CONTROL = 0.02  # effect of the control (a model against its own copy) that is always tolerated
MAX_CONTROL_SHARE = 0.5  # of the effect of the comparison, that the control's effect may have
MAX_CONTROL_INTERVAL = 0.10  # distance from 1 of the control's interval for a single latency to be stable
RESOLUTION = 0.08  # distance from 1 of an interval's ends that still means "no change"
MIN_SPREAD = 0.01  # of every interval around its value, as a log: what measurements minutes apart differ by at least
NARROW = 0.03  # half-width, as a log, at which an interval is narrow enough to stop measuring,
NARROW_SHARE = 0.1  # or this share of the log of the ratio
EDGE = 0.2  # of the time, at either end, that the first and the last median of a trend are taken from


Blocks = Sequence[float] | Sequence[Sequence[float]]
"""times by round, or by round and window"""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of times and its 95 % interval."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        assert 0 < self.low <= self.value <= self.high < math.inf, self

    @property
    def effect(self) -> float:
        """Distance from 1; the same for 2x faster and 2x slower."""
        return math.exp(abs(math.log(self.value))) - 1

    @property
    def half_width(self) -> float:
        """The larger distance from the value to an end of the interval, as a log."""
        return max(math.log(self.high / self.value), math.log(self.value / self.low))

    @property
    def spread(self) -> float:
        """The largest distance from 1 to an end of the interval, as a log."""
        return max(math.log(self.high), -math.log(self.low))

    def widened(self, spread: float) -> Ratio:
        """The same ratio, with an interval that extends to `spread` on both sides at least, as a log."""
        reach = math.exp(spread)
        return Ratio(self.value, min(self.low, self.value / reach), max(self.high, self.value * reach))

    def __str__(self) -> str:
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True)
class MedianEstimate:
    """Median milliseconds of a run and its 95 % interval."""

    p50: float
    low: float
    high: float


def tails(n: int) -> tuple[float, float]:
    """Quantiles of the bootstrap distribution of n blocks that form a 95 % interval.

    The plain 2.5 % and 97.5 % are too narrow for few blocks. `Phi(-t sqrt(n / (n - 1)))` with Student's t of n - 1
    degrees of freedom corrects for the missing degree of freedom and for the estimated variance (the expanded
    percentile interval, Hesterberg, arXiv:1411.5279).
    """
    low = float(ndtr(-float(stdtrit(n - 1, 0.975)) * math.sqrt(n / (n - 1))))
    return low, 1 - low


def ratio_interval(a: Blocks, b: Blocks) -> Ratio:
    """Compute `exp median_i median_j log(a_ij / b_ij)` over rounds i and windows j, with an interval by bootstrap.

    The medians, because a round or a window beside a busy process must not change the ratio. Rounds are resampled, and
    in each of them the windows: processes differ by more than the windows of one process. The rounds' own range holds
    the true median with 1 - 2^(1 - n), so fewer than six rounds need Student's interval as well.

    Args:
        a: Median time of each window of a's block in each round, (rounds,) or (rounds, windows), in any unit.
        b: The same for b.

    Returns:
        The ratio; above 1, b is faster.
    """
    assert len(a) == len(b) >= 2
    logs_RW = np.stack([np.log(np.asarray(x)) - np.log(np.asarray(y)) for x, y in zip(a, b, strict=True)])
    logs_RW = np.sort(logs_RW.reshape(len(a), -1), axis=1)
    logs_RW = logs_RW[np.lexsort(logs_RW.T[::-1])]  # sorted: independent of the order of rounds
    rng = np.random.default_rng(0)
    rounds = rng.integers(0, len(logs_RW), (RESAMPLES, len(logs_RW), 1))
    windows = rng.integers(0, logs_RW.shape[1], (RESAMPLES, *logs_RW.shape))
    medians = np.median(np.median(logs_RW[rounds, windows], axis=2), axis=1)
    low, high = np.quantile(medians, tails(len(logs_RW)))
    rounds_R = np.median(logs_RW, axis=1)
    middle, count = float(np.median(rounds_R)), len(rounds_R)
    t = float(stdtrit(count - 1, 0.975)) if count < MIN_BOOTSTRAP else 0.0
    half = t * float(rounds_R.std(ddof=1)) / math.sqrt(count)
    return Ratio(math.exp(middle), math.exp(min(middle - half, float(low))), math.exp(max(middle + half, float(high))))


def median_interval(blocks: Sequence[Sequence[float]]) -> MedianEstimate:
    """Median of all runs, with an interval by bootstrap over blocks, each with the same weight."""
    assert len(blocks) >= 2
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    quantiles = np.sort(np.stack([np.quantile(np.asarray(block), levels) for block in blocks]), axis=0)
    indices = np.random.default_rng(0).integers(0, len(blocks), (RESAMPLES // 2, len(blocks)))
    low, high = np.quantile(np.median(quantiles[indices].reshape(len(indices), -1), axis=1), tails(len(blocks)))
    p50 = float(np.median(np.concatenate([np.asarray(block) for block in blocks])))
    return MedianEstimate(p50, min(p50, float(low)), max(p50, float(high)))


def tail_quantiles(samples: Sequence[float]) -> tuple[float | None, float | None]:
    """p90 and p99; None where fewer than 100 runs lie above."""
    p90 = float(np.quantile(samples, 0.90)) if len(samples) >= P90_RUNS else None
    p99 = float(np.quantile(samples, 0.99)) if len(samples) >= P99_RUNS else None
    return p90, p99


def latency_verdict(ratio: Ratio | None, control: Ratio, disturbance: str) -> Verdict:
    """Judge a measurement.

    The control is a model against a byte copy of itself in the same rounds: differences of its size mean nothing.

    - unstable: the effect of the control is above 2 % and above half of the ratio's effect (of one model: above 2 %,
      or its interval extends beyond 10 %); or the ratio's interval contains 1 and extends more than 8 % from it;
    - faster, slower: the interval excludes 1 and the effect is more than twice the control's;
    - unchanged: everything else.

    Args:
        ratio: Time of a / time of b; None = one model was measured.
        control: Time of a / time of its copy.
        disturbance: What disturbed the measurement, appended to the reason of an unstable one; empty = nothing known.

    Returns:
        The verdict.
    """
    because = f"; {disturbance}" if disturbance else ""
    if control.effect > max(MAX_CONTROL, MAX_CONTROL_SHARE * ratio.effect if ratio else 0.0):
        return Verdict("unstable", f"unstable: the same model twice differs by {control.effect:.1%}{because}")
    if ratio is None:
        if max(control.high, 1 / control.low) - 1 > MAX_CONTROL_INTERVAL:
            reason = f"unstable: the same model twice differs by {control.low:.2f} to {control.high:.2f}"
            return Verdict("unstable", f"{reason}{because}")
        return Verdict("stable", "stable")
    width = max(ratio.high, 1 / ratio.low) - 1
    if ratio.low <= 1 <= ratio.high and width > RESOLUTION:
        words = f"unstable: the ratio is anywhere from {ratio.low:.2f} to {ratio.high:.2f}{because}"
        return Verdict("unstable", words)
    if ratio.low <= 1 <= ratio.high or control.effect > MAX_CONTROL_SHARE * ratio.effect:
        return Verdict("unchanged", "no measurable change")
    kind: VerdictKind = "faster" if ratio.value > 1 else "slower"
    return Verdict(kind, f"{kind} {ratio}")


def is_decided(ratio: Ratio | None, control: Ratio) -> bool:
    """Whether the intervals are narrow enough to stop measuring: the verdict is stable, and the ratio is known to 3 %.

    A large ratio may be known to a tenth of its logarithm, and one that is surely within 8 % of 1 need not be known
    better. The width decides, not the verdict alone: to measure until an interval excludes 1 would find a difference in
    every pair at last.

    Args:
        ratio: Time of a / time of b; None = one model is measured.
        control: Time of a / time of its copy.

    Returns:
        Whether another round would change nothing that is stated.
    """
    tolerated = max(NARROW, NARROW_SHARE * abs(math.log(ratio.value))) if ratio else NARROW
    shown = ratio or control
    is_narrow = shown.half_width <= tolerated or shown.spread <= math.log(1 + RESOLUTION)
    return latency_verdict(ratio, control, "").kind != "unstable" and is_narrow


def abba_schedule(arms: Sequence[str], rounds: int) -> list[tuple[str, ...]]:
    """Order the arms of each round; every second round is the mirror of the one before.

    Two arms run ABBA BAAB ...; three arms take each position equally often over six rounds. A drift that is linear in
    time affects all arms alike over each pair of rounds.

    Args:
        arms: The arms' names.
        rounds: Number of rounds.

    Returns:
        The arms in the order of each round.
    """
    order: list[tuple[str, ...]] = []
    for pair in range((rounds + 1) // 2):
        shift = pair % len(arms)
        first = (*arms[shift:], *arms[:shift])
        order += [first, first[::-1]]
    return order[:rounds]


def slowdown_per_minute(medians: Sequence[float], seconds: float) -> SustainedLoad:
    """Measure how much a model slows down under sustained load.

    The slope is the median of the slopes between all pairs of windows, which a few disturbed windows do not change
    (Sen, JASA 63, 1968).

    Args:
        medians: Median milliseconds of each window, (windows,), at equal intervals.
        seconds: Duration of the measurement.

    Returns:
        Medians of the first and the last fifth, and the slope in % per minute of the first.
    """
    edge = max(1, round(EDGE * len(medians)))
    first, last = float(np.median(medians[:edge])), float(np.median(medians[-edge:]))
    minutes = np.arange(len(medians)) * seconds / len(medians) / 60
    i, j = np.triu_indices(len(medians), 1)
    values = np.asarray(medians)
    slope = float(np.median((values[j] - values[i]) / (minutes[j] - minutes[i])))
    return SustainedLoad(seconds, first, last, 100 * slope / first)
