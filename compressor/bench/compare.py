"""Measured latency: every block a fresh process, arms interleaved, the first model against its own copy as control."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.bench.conditions import describe_conditions
from compressor.bench.device.protocol import Job, Timing
from compressor.bench.device.session import Device
from compressor.bench.profile_by_layer import time_by_layer
from compressor.bench.reference_outputs import write_reference
from compressor.bench.statistics import (
    Ratio,
    abba_schedule,
    latency_verdict,
    median_interval,
    ratio_interval,
    tail_quantiles,
)
from compressor.core import Comparison, EventSink, Latency
from compressor.errors import RecipeError
from compressor.export.onnx_file import validate_onnx

WARM_SECONDS = 0.3  # at least, before the runner looks for stability
WARM_ACCELERATOR_SECONDS = 2.0  # whose clocks take longer to rise
UNDISTURBED = 0.97  # share of its CPU a block must have had for the wall clock to be the model's
LEAST_ROUNDS, MOST_ROUNDS = 6, 12
A, B, CONTROL = "a", "b", "control"

Arms = Mapping[str, Sequence[Timing]]


def compare_latency(
    device: Device,
    a: Path,
    b: Path | None,
    *,
    batch: int = 1,
    seconds: float = 6.0,
    inputs: NDArray[Any] | None = None,
    layers: bool = False,
    emit: EventSink,
) -> Comparison:
    """Latency of `a`, and of `b` against it, on the device, from `seconds` of measuring per model.

    Each block is a process of its own, pinned to the CPUs that were idlest when the device was opened; rounds of one
    block per arm run in mirrored order (ABBA BAAB for two); a byte copy of `a` is the control. Every block's first
    outputs must be those of this machine's CPU. The clock is the wall; where other processes took the CPU from a
    single-threaded model it is the CPU time, and `environment["clock"]` says so. Real `inputs` (n, ...) are cycled
    through in batches; without them they are seeded. With `layers` both models are profiled as well, afterwards.
    Raises what `Device.run` does, and RecipeError for arguments out of range.
    """
    for name, value in (("batch", batch), ("seconds", seconds)):
        if not value > 0:
            raise RecipeError("bench/not-positive", f"bench.{name}", f"it is {value}", "give a number above 0")
    files = {arm: validate_onnx(path) for arm, path in ((A, a), (B, b)) if path is not None}
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as name:
        folder = Path(name)
        real = folder / "inputs.npy" if inputs is not None else None
        if real is not None:
            np.save(real, inputs, allow_pickle=False)  # type: ignore[arg-type]  # not None here
        (folder / CONTROL).mkdir()
        paths = {arm: file.path for arm, file in files.items()}
        paths[CONTROL] = files[A].copy_to(folder / CONTROL)
        known = {arm: folder / f"{arm}.npz" for arm in files}
        known = {arm: file for arm, file in known.items() if write_reference(paths[arm], batch, real, file)}
        rounds = rounds_within(seconds)

        def measure(arm: str) -> Timing:
            reference = known.get(A if arm == CONTROL else arm)
            return device.run(
                Job(
                    models=(paths[arm],),
                    window_s=seconds / rounds,
                    warm_s=WARM_SECONDS if device.target.provider == "cpu" else WARM_ACCELERATOR_SECONDS,
                    batch=batch,
                    inputs=real,
                    references=(reference,) if reference else (),
                )
            )[0]

        before = device.state()
        arms = run_interleaved(abba_schedule(list(paths), rounds), measure, emit)
        after = device.state()
        profiled = time_by_layer(device, a, b, batch=batch, seconds=min(1.0, seconds / 6)) if layers and b else ()

    everything = [block for blocks in arms.values() for block in blocks]
    by_cpu, disturbance = clock_frequency(device, everything)
    times = {arm: [sum(block.cpu if by_cpu else block.wall, ()) for block in blocks] for arm, blocks in arms.items()}
    control = ratio_between(times[A], times[CONTROL])
    ratio = ratio_between(times[A], times[B]) if b else None
    around = describe_conditions(device, before, after, everything)
    verdict, stable = latency_verdict(ratio, control, disturbance)
    if around.throttled:
        verdict, stable = f"unstable: {around.throttled}", False
    facts = {
        **around.facts,
        "clock": f"CPU time, for {disturbance}" if by_cpu else "wall",
        "warm": f"{sum(block.warm for block in everything)} of {len(everything)} blocks",
        "blocks": f"{rounds} of {seconds / rounds:.2f} s per model, each in its own process",
        "inputs": "real" if inputs is not None else "seeded normal",
        "outputs": require_same_outputs(everything),
        **{f"sha256_{arm}": file.sha256 for arm, file in files.items()},
    }
    return Comparison(
        a=latency_of(times[A], arms[A]),
        b=latency_of(times[B], arms[B]) if b else None,
        ratio=ratio.value if ratio else None,
        ratio_ci95=(ratio.low, ratio.high) if ratio else None,
        control=control.value,
        control_ci95=(control.low, control.high),
        verdict=verdict,
        stable=stable,
        target=device.target.name,
        runtime=device.runtime,
        provider=device.provider,
        threads=device.target.threads,
        batch=batch,
        environment=facts,
        layers=profiled,
    )


def rounds_within(seconds: float) -> int:
    """Blocks per arm. Processes differ more than the runs within one, so many short blocks say more than few long."""
    return min(MOST_ROUNDS, max(LEAST_ROUNDS, round(2 * seconds)))


def run_interleaved(orders: Sequence[Sequence[str]], measure: Callable[[str], Timing], emit: EventSink) -> Arms:
    """Measure one block per arm in every round, in the order given."""
    arms: dict[str, list[Timing]] = {arm: [] for arm in orders[0]}
    for number, order in enumerate(orders, start=1):
        for arm in order:
            block = measure(arm)
            arms[arm].append(block)
            fields = {"round": number, "rounds": len(orders), "arm": arm, "cpu_share": block.cpu_share}
            wall, cpu = median(sum(block.wall, ())), median(sum(block.cpu, ()))
            emit("bench", {**fields, "wall_ms": wall, "cpu_ms": cpu})
    return arms


def clock_frequency(device: Device, blocks: Sequence[Timing]) -> tuple[bool, str]:
    """Whether CPU time must stand in for the wall, and what disturbed it.

    Only one thread of the CPU's can be judged so: elsewhere the calling thread waits for others to compute.
    """
    if device.target.threads > 1 or device.target.provider != "cpu":
        return False, ""
    lowest = min(block.cpu_share for block in blocks)
    return (
        lowest < UNDISTURBED,
        f"other processes took up to {1 - lowest:.0%} of the CPU" if lowest < UNDISTURBED else "",
    )


def require_same_outputs(blocks: Sequence[Timing]) -> str:
    errors = [block.output_error for block in blocks if block.output_error is not None]
    if not errors:
        return "finite in every block"
    unchecked = len(blocks) - len(errors)
    rest = f", finite in the other {unchecked}" if unchecked else ""
    return f"this CPU's to {max(errors):.0e} in {len(errors)} of {len(blocks)} blocks{rest}"


def ratio_between(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Ratio:
    return ratio_interval([median(times) for times in a], [median(times) for times in b])


def latency_of(times: Sequence[Sequence[float]], blocks: Sequence[Timing]) -> Latency:
    samples = tuple(sample for block in times for sample in block)
    centre = median_interval(times)
    p90, p99 = tail_quantiles(samples)
    energies = [block.energy_j for block in blocks if block.energy_j is not None]
    return Latency(
        centre.p50,
        p90,
        p99,
        len(samples),
        (centre.low, centre.high),
        median(block.session_ms + block.first_run_ms for block in blocks),
        samples,
        energy_j=median(energies) if energies else None,
        peak_bytes=max(block.peak_bytes for block in blocks),
    )
