"""The multiple that layer widths are rounded to: the recipe's, or the coarsest one that the device computes faster.

The device's multiple is measured with small residual blocks of many widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from compressor.bench.device.device import Device
from compressor.bench.device.protocol import Clock, Job, Timing
from compressor.bench.device.session import RunnerSession
from compressor.bench.layer_latency import time_models, typical_ms
from compressor.bench.measurement_cache import add_to_cache, cache_file, read_cache
from compressor.bench.synthetic_models import BLOCKS, residual_block
from compressor.core import EventSink
from compressor.recipe import Recipe
from compressor.run_log import RunLog

MULTIPLES = (1, 4, 8, 16, 32)
WIDTHS = {  # by the largest multiple that divides them
    32: (64, 96, 128),
    16: (80, 112),
    8: (72, 88, 104, 120),
    4: (76, 84, 100, 116),
    1: (75, 90, 101, 110, 121),
}
MAX_LOSS = 0.06  # of speed, that a finer multiple may cost; see `coarsest_free_step`
CACHE_KEY = f"width multiple, loss {MAX_LOSS}"

DEFAULT_MULTIPLE = 8  # without a device: most runtimes compute multiples of 8 channels faster

WARM_SECONDS, WINDOW_SECONDS, WINDOWS = 0.02, 0.004, 14
TIMEOUT = 120.0

Times = Mapping[int, float]
"""width -> time of one kind of block"""


def choose_width_multiple(recipe: Recipe, device: Device | None, log: RunLog) -> int:
    """Choose what the widths of a run are multiples of.

    Args:
        recipe: Its `prune.round_to` decides unless it is `auto`.
        device: The device; None = nothing is measured.
        log: A resumed run keeps its multiple, because a second measurement might give another.

    Returns:
        The number of channels that widths are multiples of.

    Raises:
        DeviceUnavailable: The device cannot be reached.
    """
    if recipe.method.unstructured:
        return 1
    if recipe.prune.round_to != "auto":
        return recipe.prune.round_to
    if recipe.pruning_target().allocates_per_layer:
        return MULTIPLES[-1]  # the latency model knows the multiple of each layer
    if device is None:
        return DEFAULT_MULTIPLE

    def measure() -> int:
        with log.stage("ask the target"), device.open() as session:
            multiple = preferred_width_multiple(session, emit=log)
        log.note(f"target {device.name} prefers widths that are multiples of {multiple}")
        return multiple

    return log.decision(f"width multiple on {device.description}", measure)


def preferred_width_multiple(session: RunnerSession, *, emit: EventSink) -> int:
    """Measure the multiple (1, 4, 8, 16 or 32) that widths should have on a device, which takes about 7 s.

    The result is cached unless two halves of the measurement disagree. Then the coarser multiple is returned, which
    is never the slower one.

    Args:
        session: The device.
        emit: Receives the result.

    Returns:
        The multiple.

    Raises:
        CompressorError: As `RunnerSession.run`.
    """
    path = cache_file(session.fingerprint)
    cached = read_cache(path).get(CACHE_KEY)
    if cached in MULTIPLES:
        emit("staircase", {"round_to": int(cached), "cached": True})
        return int(cached)
    timings = time_blocks(session)
    halves = [coarsest_free_step(latency_tables(timings, half, session.device.clock)) for half in (0, 1)]
    agreed = halves[0] == halves[1]
    emit("staircase", {"round_to": max(halves), "cached": False, "agreed": agreed})
    if agreed:
        add_to_cache(path, {CACHE_KEY: halves[0]})
    return max(halves)


def coarsest_free_step(tables: Sequence[Times]) -> int:
    """Find the finest multiple whose widths all run at full speed.

    Full speed at width w is interpolated between the multiples of 32, log t linear in log w, which allows for the
    lower efficiency of small layers. The loss of multiple m is the median of `t / t_interpolated - 1` over the widths
    whose largest multiple is m and over all tables. The result is the smallest multiple such that neither it nor a
    coarser one loses more than 6 %. On CPUs with 512-bit vectors the multiples 16, 8, 4 and 1 lose about 3, 11, 14 and
    30 %.
    """
    finest = MULTIPLES[-1]
    for multiple in reversed(MULTIPLES[:-1]):
        losses = [times[width] / interpolated_time(times, width) - 1 for times in tables for width in WIDTHS[multiple]]
        if median(losses) > MAX_LOSS:
            break
        finest = multiple
    return finest


def interpolated_time(times: Times, width: int) -> float:
    """Interpolate the time at a width between the multiples of 32, in logarithms of width and time.

    Args:
        times: Times of one kind of block.
        width: Number of channels.

    Returns:
        The time, in the unit of `times`.
    """
    anchors = WIDTHS[32]
    logs = [math.log(times[anchor]) for anchor in anchors]
    return math.exp(float(np.interp(math.log(width), np.log(anchors), logs)))


def time_blocks(session: RunnerSession) -> dict[tuple[str, int], Timing]:
    """Time every block (kind, width) in one process."""
    blocks = [(kind, width) for kind in BLOCKS for widths in WIDTHS.values() for width in widths]
    job = Job((), WINDOW_SECONDS, WINDOWS, WARM_SECONDS, timeout=TIMEOUT)
    timings = time_models(session, [residual_block(kind, width) for kind, width in blocks], job)
    return dict(zip(blocks, timings, strict=True))


def latency_tables(timings: Mapping[tuple[str, int], Timing], half: int, clock: Clock) -> list[Times]:
    """Make a table of typical times for each kind of block from every second window.

    Args:
        timings: Timings by kind and width.
        half: 0 for the even windows, 1 for the odd ones.
        clock: What the runs are timed by.

    Returns:
        One table for each kind, in milliseconds.
    """
    tables: dict[str, dict[int, float]] = {kind: {} for kind in BLOCKS}
    for (kind, width), timing in timings.items():
        tables[kind][width] = typical_ms(timing.windows(clock)[half::2])
    return list(tables.values())
