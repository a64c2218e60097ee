"""Measured latency on a device: each block in a new process, models interleaved, and the first model's own copy as
control."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.bench.conditions import choose_clock, describe_conditions
from compressor.bench.device.protocol import Job, Timing
from compressor.bench.device.session import RunnerSession
from compressor.bench.profile_by_layer import time_by_layer
from compressor.bench.runner.ort_session import LoadedSession
from compressor.bench.runner.worker import WorkerError
from compressor.bench.statistics import (
    Ratio,
    abba_schedule,
    latency_verdict,
    median_interval,
    ratio_interval,
    slowdown_per_minute,
    tail_quantiles,
)
from compressor.core import Comparison, EventSink, Latency, SustainedLoad
from compressor.errors import RecipeError
from compressor.export.onnx_file import OnnxFile, validate_onnx
from compressor.export.random_nodes import may_draw

WARM_SECONDS = 0.3  # at least, before the runner checks whether the model is warm
WARM_ACCELERATOR_SECONDS = 2.0  # an accelerator's clock takes longer to rise
MIN_ROUNDS, MAX_ROUNDS = 6, 12
SUSTAINED_WINDOW = 1.0  # s
A, B, CONTROL = "a", "b", "control"

Arms = Mapping[str, Sequence[Timing]]
"""arm -> its block of each round"""


def compare_latency(
    session: RunnerSession,
    a: Path,
    b: Path | None,
    *,
    batch: int = 1,
    seconds: float = 6.0,
    inputs: NDArray[Any] | None = None,
    layers: bool = False,
    emit: EventSink,
) -> Comparison:
    """Measure the latency of one model, or compare two.

    Each block is a process of its own, pinned to the CPUs that were most idle when the session began. A round runs one
    block of each arm, in mirrored order (ABBA BAAB for two arms); a byte copy of `a` is one arm, the control. The first
    outputs of every block must equal those of this machine's CPU. Wall time is reported unless other processes took
    the CPU from a single-threaded model; then CPU time is, and `environment["clock"]` says so.

    Args:
        session: the device.
        a: an ONNX file.
        b: the file to compare it with; None = measure `a` alone.
        batch: batch size.
        seconds: measuring time for each model.
        inputs: data (n, ...) for the first input, used in batches in turn; None = seeded normal values.
        layers: profile both models by layer afterwards.
        emit: receives an event for each block.

    Returns:
        Latencies, their ratio, the control's ratio, the verdict and the conditions.

    Raises:
        RecipeError: `batch` or `seconds` is not positive.
        CompressorError: as `RunnerSession.run`.
    """
    for name, value in (("batch", batch), ("seconds", seconds)):
        if not value > 0:
            raise RecipeError("bench/not-positive", f"bench.{name}", f"it is {value}", "give a number above 0")
    files = {arm: validate_onnx(path) for arm, path in ((A, a), (B, b)) if path is not None}
    rounds = rounds_within(seconds)
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        jobs = _jobs(session, files, Path(folder), inputs, batch=batch, window_s=seconds / rounds)
        before = session.state()
        arms = run_interleaved(abba_schedule(list(jobs), rounds), lambda arm: session.run(jobs[arm])[0], emit)
        after = session.state()
        profile = time_by_layer(session, a, b, batch=batch, seconds=min(1.0, seconds / 6)) if layers and b else ()

    conditions = describe_conditions(session, before, after, [block for blocks in arms.values() for block in blocks])
    times = {
        arm: [sum(block.windows(by_cpu_time=conditions.by_cpu_time), ()) for block in blocks]
        for arm, blocks in arms.items()
    }
    control = _ratio(times[A], times[CONTROL])
    ratio = _ratio(times[A], times[B]) if b else None
    verdict, stable = latency_verdict(ratio, control, conditions.disturbance)
    if conditions.throttled:
        verdict, stable = f"unstable: {conditions.throttled}", False
    environment = {
        **conditions.facts,
        "blocks": f"{rounds} of {seconds / rounds:.2f} s per model, each in its own process",
        "inputs": "real" if inputs is not None else "seeded normal",
        **{f"sha256_{arm}": file.sha256 for arm, file in files.items()},
    }
    return Comparison(
        a=_latency(times[A], arms[A]),
        b=_latency(times[B], arms[B]) if b else None,
        ratio=ratio.value if ratio else None,
        ratio_ci95=(ratio.low, ratio.high) if ratio else None,
        control=control.value,
        control_ci95=(control.low, control.high),
        verdict=verdict,
        stable=stable,
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
        session: the device.
        model: the ONNX file.
        batch: batch size.
        seconds: duration.

    Returns:
        Latency at the beginning and at the end, and the trend.

    Raises:
        CompressorError: as `RunnerSession.run`.
    """
    windows = max(10, round(seconds / SUSTAINED_WINDOW))
    job = Job((model,), window_s=seconds / windows, windows=windows, batch=batch, timeout=2 * seconds + 60)
    (timing,) = session.run(job)
    by_cpu_time, _ = choose_clock(session, [timing])
    return slowdown_per_minute([median(window) for window in timing.windows(by_cpu_time=by_cpu_time)], seconds)


def _jobs(
    session: RunnerSession,
    files: Mapping[str, OnnxFile],
    folder: Path,
    inputs: NDArray[Any] | None,
    *,
    batch: int,
    window_s: float,
) -> dict[str, Job]:
    """The job of each arm; the control's copy, the inputs and the reference outputs are written to `folder`."""
    inputs_path = None
    if inputs is not None:
        inputs_path = folder / "inputs.npy"
        np.save(inputs_path, inputs, allow_pickle=False)
    (folder / CONTROL).mkdir()
    job = partial(
        Job,
        window_s=window_s,
        warm_s=WARM_SECONDS if session.device.provider == "cpu" else WARM_ACCELERATOR_SECONDS,
        batch=batch,
        inputs=inputs_path,
    )
    jobs = {}
    for arm, file in files.items():
        reference = folder / f"{arm}.npz"
        has_reference = _write_reference(file.path, batch, inputs_path, reference)
        jobs[arm] = job((file.path,), references=(reference,) if has_reference else ())
    jobs[CONTROL] = job((files[A].copy_to(folder / CONTROL),), references=jobs[A].references)
    return jobs


def _write_reference(model: Path, batch: int, inputs: Path | None, file: Path) -> bool:
    """Write a model's outputs on this machine's CPU to an .npz file; every timed process is compared with them.

    Returns False if there is nothing to compare with: the model draws random numbers, or this machine cannot run it. If
    the device cannot either, its own error is raised later.
    """
    if may_draw(model):
        return False
    request: dict[str, object] = {
        "inputs": str(inputs) if inputs else None,
        "batch": batch,
        "threads": 1,
        "provider": "cpu",
        "options": {},
        "cpu_fallback": False,
        "graph": "all",
    }
    try:
        outputs = LoadedSession(str(model), request).outputs
    except WorkerError:
        return False
    arrays = {f"output{index}": array for index, array in enumerate(outputs) if isinstance(array, np.ndarray)}
    np.savez(file, allow_pickle=False, **arrays)
    return True


def rounds_within(seconds: float) -> int:
    """The number of rounds. Processes differ more than runs, so many short blocks are better than few long ones."""
    return min(MAX_ROUNDS, max(MIN_ROUNDS, round(2 * seconds)))


def run_interleaved(orders: Sequence[Sequence[str]], measure: Callable[[str], Timing], emit: EventSink) -> Arms:
    """Measure one block of each arm in every round.

    Args:
        orders: the arms in the order of each round.
        measure: measures one block of an arm.
        emit: receives an event for each block.

    Returns:
        The blocks of each arm.
    """
    arms: dict[str, list[Timing]] = {arm: [] for arm in orders[0]}
    for round_number, order in enumerate(orders, start=1):
        for arm in order:
            block = measure(arm)
            arms[arm].append(block)
            fields = {"round": round_number, "rounds": len(orders), "arm": arm, "cpu_share": block.cpu_share}
            wall, cpu = median(sum(block.wall, ())), median(sum(block.cpu, ()))
            emit("bench", {**fields, "wall_ms": wall, "cpu_ms": cpu})
    return arms


def _ratio(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Ratio:
    """Time of a / time of b, from milliseconds as [block][run]."""
    return ratio_interval([median(times) for times in a], [median(times) for times in b])


def _latency(times: Sequence[Sequence[float]], blocks: Sequence[Timing]) -> Latency:
    samples = tuple(sample for block_times in times for sample in block_times)
    estimate = median_interval(times)
    p90, p99 = tail_quantiles(samples)
    energies = [block.energy_j for block in blocks if block.energy_j is not None]
    return Latency(
        estimate.p50,
        p90,
        p99,
        len(samples),
        (estimate.low, estimate.high),
        median(block.session_ms + block.first_run_ms for block in blocks),
        samples,
        energy_j=median(energies) if energies else None,
        peak_bytes=max(block.peak_bytes for block in blocks),
    )
