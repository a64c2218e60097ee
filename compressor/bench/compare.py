"""Measured latency on a device: models in turn, in several processes, with the first model's own copy as control."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from compressor.bench.conditions import choose_clock, describe_conditions
from compressor.bench.device.protocol import Clock, Job, Timing
from compressor.bench.device.session import RunnerSession
from compressor.bench.interleaved import BUDGET, CONTROL, WINDOWS, A, Arms, B, interleave, rounds_within, run_rounds
from compressor.bench.profile_by_layer import time_by_layer
from compressor.bench.statistics import (
    MIN_SPREAD,
    Ratio,
    abba_schedule,
    is_decided,
    latency_verdict,
    median_interval,
    ratio_interval,
    slowdown_per_minute,
    tail_quantiles,
)
from compressor.bench.timed_inputs import TimedInputs
from compressor.core import Comparison, EventSink, Latency, LayerTime, SustainedLoad, Verdict
from compressor.errors import RecipeError
from compressor.export.onnx_file import OnnxFile, validate_onnx

SUSTAINED_WINDOW = 1.0  # s


def compare_latency(
    session: RunnerSession,
    a: Path,
    b: Path | None,
    *,
    batch: int = 1,
    seconds: float = 6.0,
    inputs: TimedInputs | None = None,
    real: bool = True,
    layers: bool = False,
    emit: EventSink,
) -> Comparison:
    """Measure the latency of one model, or compare two.

    Each round is a new process, pinned to the CPUs that were most idle when the session began, which times all arms in
    turn; the order is mirrored from round to round. A byte copy of `a` is one arm, the control. Rounds end when the
    intervals are narrow enough (`is_decided`). The first outputs of every model must equal those of this machine's CPU.
    Wall time is reported unless other processes took the CPU from a single-threaded model; then CPU time is, and
    `environment["clock"]` says so.

    Args:
        session: The device.
        a: An ONNX file.
        b: The file to compare it with; None = measure `a` alone.
        batch: Batch size.
        seconds: Measuring time for each model; less if the ratio is clear sooner, at most twice as much if not.
        inputs: What is run on, in batches in turn; None = seeded values. Sizes that the file leaves open are then those
            that it was traced with, or 1 where it does not say them.
        real: Whether the inputs are data, and no noise.
        layers: Profile both models by layer afterwards.
        emit: Receives an event for each block.

    Returns:
        Latencies, their ratio, the control's ratio, the verdict and the conditions.

    Raises:
        RecipeError: `batch` or `seconds` is not positive.
        CompressorError: As `RunnerSession.run`.
    """
    for name, value in (("batch", batch), ("seconds", seconds)):
        if not value > 0:
            raise RecipeError("bench/not-positive", f"bench.{name}", f"it is {value}", "give a number above 0")
    files = {arm: validate_onnx(path) for arm, path in ((A, a), (B, b)) if path is not None}
    rounds = rounds_within(seconds)
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        setup = interleave(session, files, Path(folder), inputs, batch=batch, seconds=seconds / rounds)
        before = session.state()
        orders = abba_schedule(list(setup.files), BUDGET * rounds)
        arms = run_rounds(
            orders,
            lambda order: setup.blocks(session, order),
            lambda arms: is_decided(*_ratios(session, arms)),
            emit,
        )
        after = session.state()
        peaks = {arm: setup.peak_bytes(session, arm) for arm in files}
        profile: tuple[LayerTime, ...] = ()
        if layers and b:
            job = replace(setup.job, window_s=min(1.0, seconds / 6))
            profile = time_by_layer(session, a, b, job)

    conditions = describe_conditions(session, before, after, _all_blocks(arms))
    ratio, control = _ratios(session, arms)
    verdict = latency_verdict(ratio, control, conditions.disturbance)
    if conditions.throttled:
        verdict = Verdict("unstable", f"unstable: {conditions.throttled}")
    environment = {
        **conditions.facts,
        "blocks": f"{len(arms[A])} rounds of at most {len(orders)}: {WINDOWS} windows of each model, "
        f"{seconds / rounds:.2f} s, {'in turn in one process' if setup.shared else 'each model in its own process'}",
        "inputs": _describe_inputs(files[A], inputs, real),
        **{f"sha256_{arm}": file.sha256 for arm, file in files.items()},
    }
    return Comparison(
        a=_latency(arms[A], control, peaks[A], conditions.clock),
        b=_latency(arms[B], control, peaks[B], conditions.clock) if b else None,
        ratio=ratio.value if ratio else None,
        ratio_ci95=(ratio.low, ratio.high) if ratio else None,
        control=control.value,
        control_ci95=(control.low, control.high),
        verdict=verdict,
        target=session.device.name,
        runtime=session.runtime,
        provider=session.provider,
        threads=session.device.threads,
        batch=batch,
        environment=environment,
        layers=profile,
    )


def measure_sustained(session: RunnerSession, model: Path, *, batch: int, seconds: float) -> SustainedLoad:
    """Run a model without a pause in one process, to see how much it slows down when the device is hot.

    Args:
        session: The device.
        model: The ONNX file.
        batch: Batch size.
        seconds: Duration.

    Returns:
        Latency at the beginning and at the end, and the trend.

    Raises:
        CompressorError: As `RunnerSession.run`.
    """
    windows = max(10, round(seconds / SUSTAINED_WINDOW))
    job = Job((model,), window_s=seconds / windows, windows=windows, batch=batch, timeout=2 * seconds + 60)
    (timing,) = session.run(job)
    clock, _ = choose_clock(session, [timing])
    return slowdown_per_minute([median(window) for window in timing.windows(clock)], seconds)


def _describe_inputs(file: OnnxFile, inputs: TimedInputs | None, real: bool) -> str:
    """What the models ran on, with the sizes that neither the inputs nor the file say."""
    if inputs is not None:
        return "real" if real else "seeded normal"
    made_up = ", ".join(file.open_sizes)
    return f"seeded normal, of size 1 at {made_up}, which the file leaves open" if made_up else "seeded normal"


def _all_blocks(arms: Arms) -> list[Timing]:
    return [block for blocks in arms.values() for block in blocks]


def _ratios(session: RunnerSession, arms: Arms) -> tuple[Ratio | None, Ratio]:
    """Time of a / time of b where there is one, and time of a / time of its copy.

    The interval of the first reaches as far from its value as the second's from 1, where two equal files are: by as
    much as this the same file differs.
    """
    clock, _ = choose_clock(session, _all_blocks(arms))
    times = {
        arm: [[median(window) for window in block.windows(clock)] for block in blocks] for arm, blocks in arms.items()
    }
    control = ratio_interval(times[A], times[CONTROL]).widened(MIN_SPREAD)
    return ratio_interval(times[A], times[B]).widened(control.spread) if B in times else None, control


def _latency(blocks: Sequence[Timing], control: Ratio, peak_bytes: int, clock: Clock) -> Latency:
    """The latency of one arm. The interval of its median is widened like that of a ratio."""
    times = [sum(block.windows(clock), ()) for block in blocks]
    samples = tuple(sample for block_times in times for sample in block_times)
    estimate = median_interval(times)
    p90, p99 = tail_quantiles(samples)
    interval = Ratio(estimate.p50, estimate.low, estimate.high).widened(control.spread)
    energies = [block.energy_j for block in blocks if block.energy_j is not None]
    return Latency(
        estimate.p50,
        p90,
        p99,
        len(samples),
        (interval.low, interval.high),
        median(block.session_ms + block.first_run_ms for block in blocks),
        samples,
        energy_j=median(energies) if energies else None,
        peak_bytes=peak_bytes,
    )
