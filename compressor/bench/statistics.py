"""From block times to a latency, a ratio with its interval, and a verdict: pure functions.

A block is what one fresh process measured: the milliseconds of its runs. A round holds one block of every arm,
measured right after one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

_Floats = NDArray[np.float64]

RESAMPLES = 4000
THINNED = 200  # quantiles that stand for a block when blocks are resampled
P90_RUNS, P99_RUNS = 1_000, 10_000  # 100 samples in the tail

CONTROL = 0.02  # a model against its own copy may differ this much
CONTROL_SHARE = 0.5  # of the claimed effect that the control may reach
CONTROL_REACH = 0.10  # how far the control's interval may reach from 1 for a latency alone to be stated
RESOLUTION = 0.05  # half-width of an interval around 1 that still says "no change"


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of times and its 95 % interval; one can't be had without the other."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        assert 0 < self.low <= self.value <= self.high < math.inf, self

    @property
    def effect(self) -> float:
        """Distance from 1, the same for 2x faster and 2x slower."""
        return math.exp(abs(math.log(self.value))) - 1

    def __str__(self) -> str:
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True)
class MedianEstimate:
    """Median milliseconds of one run and its 95 % interval."""

    p50: float
    low: float
    high: float


def tails(n: int) -> tuple[float, float]:
    """Quantiles of the bootstrap distribution that cover 95 % with n blocks.

    The plain 2.5 % and 97.5 % are too narrow for a handful of blocks; `Phi(-t sqrt(n / (n - 1)))` with Student's
    t at n - 1 degrees of freedom corrects both for the missing degree of freedom and for the estimated variance
    (the expanded percentile interval, Hesterberg, arXiv:1411.5279).
    """
    low = float(ndtr(-float(stdtrit(n - 1, 0.975)) * math.sqrt(n / (n - 1))))
    return low, 1 - low


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """`exp median_i log(a_i / b_i)` over the medians of paired blocks, interval by bootstrap over the pairs.

    The median of the rounds, not their mean: one round beside a busy neighbour must not move the ratio.
    """
    assert len(a) == len(b) >= 2
    logs = np.sort(np.log(np.asarray(a)) - np.log(np.asarray(b)))  # sorted: the order of rounds can't matter
    drawn = logs[np.random.default_rng(0).integers(0, len(logs), (RESAMPLES, len(logs)))]
    low, high = np.quantile(np.median(drawn, axis=1), tails(len(logs)))
    middle = float(np.median(logs))
    return Ratio(math.exp(middle), math.exp(min(middle, float(low))), math.exp(max(middle, float(high))))


def median_interval(blocks: Sequence[Sequence[float]]) -> MedianEstimate:
    """Median of all runs, interval by bootstrap over blocks, each standing with the same weight."""
    assert len(blocks) >= 2
    levels = (np.arange(THINNED) + 0.5) / THINNED
    thinned = np.sort(np.stack([np.quantile(np.asarray(block), levels) for block in blocks]), axis=0)
    drawn = np.random.default_rng(0).integers(0, len(blocks), (RESAMPLES // 4, len(blocks)))
    low, high = np.quantile(np.median(thinned[drawn].reshape(len(drawn), -1), axis=1), tails(len(blocks)))
    p50 = float(np.median(np.concatenate([np.asarray(block) for block in blocks])))
    return MedianEstimate(p50, min(p50, float(low)), max(p50, float(high)))


def tail_quantiles(samples: Sequence[float]) -> tuple[float | None, float | None]:
    """p90 and p99, each None unless at least 100 runs lie beyond it."""
    p90 = float(np.quantile(samples, 0.90)) if len(samples) >= P90_RUNS else None
    p99 = float(np.quantile(samples, 0.99)) if len(samples) >= P99_RUNS else None
    return p90, p99


def latency_verdict(ratio: Ratio | None, control: Ratio, disturbance: str) -> tuple[str, bool]:
    """The measurement in words, and whether it can be stated at all.

    The control, a model against a byte copy of itself in the same rounds, shows what differences mean nothing here.
    - unstable: the control is off by more than 2 % and by more than half of the effect claimed (with one model:
      more than 2 %, or an interval that reaches 10 %); or the ratio's interval holds 1 and reaches further than 5 %
      from it, so that nothing can be said;
    - faster, slower: the interval excludes 1 and the effect is more than twice the control's;
    - no measurable change: everything else.
    `disturbance` is appended to the reason of an unstable one.
    """
    because = f"; {disturbance}" if disturbance else ""
    allowed = max(CONTROL, CONTROL_SHARE * ratio.effect if ratio else 0.0)
    if control.effect > allowed:
        return f"unstable: the same model twice differs by {control.effect:.1%}{because}", False
    if ratio is None:
        if max(control.high, 1 / control.low) - 1 > CONTROL_REACH:
            reason = f"unstable: the same model twice differs by {control.low:.2f} to {control.high:.2f}"
            return f"{reason}{because}", False
        return "stable", True
    width = max(ratio.high, 1 / ratio.low) - 1
    if ratio.low <= 1 <= ratio.high and width > RESOLUTION:
        return f"unstable: the ratio is anywhere from {ratio.low:.2f} to {ratio.high:.2f}{because}", False
    if ratio.low <= 1 <= ratio.high or control.effect > CONTROL_SHARE * ratio.effect:
        return "no measurable change", True
    return f"{'faster' if ratio.value > 1 else 'slower'} {ratio}", True


def abba_schedule(arms: Sequence[str], rounds: int) -> list[tuple[str, ...]]:
    """Order of the arms in each round, every second round the mirror of the one before.

    Two arms run ABBA BAAB ...; three take each place equally often over six rounds. A drift that is linear in time
    meets all arms alike over each pair of rounds.
    """
    order: list[tuple[str, ...]] = []
    for pair in range((rounds + 1) // 2):
        shift = pair % len(arms)
        first = (*arms[shift:], *arms[:shift])
        order += [first, first[::-1]]
    return order[:rounds]
