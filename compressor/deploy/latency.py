"""Measured latency: every block a fresh process, arms interleaved, the first model against its own copy as control."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.core import Comparison, Emit, Latency
from compressor.deploy import environment
from compressor.deploy.onnx_file import examine
from compressor.deploy.statistics import Ratio, centre_of, ratio_of, schedule, tail_quantiles, verdict_of
from compressor.deploy.target import open_target
from compressor.deploy.worker import PROVIDER, Reply, Request
from compressor.errors import RecipeError

WARM_SECONDS = 0.3  # at least, before the worker looks for stability
TIMEOUT = 300.0  # s for one block, whatever the model
UNDISTURBED = 0.97  # share of its CPU a block must have had for the wall clock to be the model's
A, B, CONTROL = "a", "b", "control"


@dataclass(frozen=True, slots=True)
class Block:
    """What one process measured: milliseconds of each run by both clocks."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    cold_start: float
    warm: bool
    runtime: str

    @property
    def cpu_share(self) -> float:
        """Share of its CPU that the typical run had; a few disturbed runs leave the medians as they are."""
        return median(self.cpu) / median(self.wall)


Arms = Mapping[str, Sequence[Block]]


def compare(
    a: Path,
    b: Path | None,
    *,
    target: str = "local",
    threads: int = 1,
    batch: int = 1,
    seconds: float = 6.0,
    inputs: NDArray[Any] | None = None,
    emit: Emit,
) -> Comparison:
    """Latency of `a`, and of `b` against it, on `target`, from `seconds` of measuring per model.

    Each block is a process of its own, pinned to the `threads` CPUs idlest at the start; rounds of one block per arm
    run in mirrored order (ABBA BAAB for two); a byte copy of `a` is the control. The clock is the wall; where other
    processes took the CPU from a single-threaded model it is the CPU time, and `environment["clock"]` says so. Real
    `inputs` (n, ...) are cycled through in batches; without them they are seeded.
    Raises ModelError, VerificationFailed for NaN or infinity, DeviceUnavailable, RecipeError.
    """
    for name, value in (("threads", threads), ("batch", batch), ("seconds", seconds)):
        if not value > 0:
            raise RecipeError(name, f"bench.{name}", str(value), "must be above 0")
    device = open_target(target)
    if device is None:
        raise RecipeError("nothing to measure on", "bench.target", target, "choose local")
    files = {arm: examine(path) for arm, path in ((A, a), (B, b)) if path is not None}
    cpus = environment.quietest_cpus(threads)
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        real = None
        if inputs is not None:
            real = str(Path(folder) / "inputs.npy")
            np.save(real, inputs, allow_pickle=False)
        (Path(folder) / CONTROL).mkdir()
        paths = {arm: file.path for arm, file in files.items()}
        paths[CONTROL] = files[A].copy_to(Path(folder) / CONTROL)
        rounds = rounds_for(seconds)

        def measure(arm: str) -> Block:
            request = Request(
                models=[str(paths[arm].resolve())],
                threads=threads,
                batch=batch,
                cpus=cpus,
                inputs=real,
                warm_s=WARM_SECONDS,
                window_s=seconds / rounds,
                windows=1,
            )
            return block_of(device.ask(request, [str(files.get(arm, files[A]).path)], TIMEOUT))

        before = environment.snapshot(cpus)
        arms = run_rounds(schedule(list(paths), rounds), measure, emit)
        after = environment.snapshot(cpus)

    everything = [block for blocks in arms.values() for block in blocks]
    lowest = min(block.cpu_share for block in everything)
    clock = wall_times if lowest >= UNDISTURBED or threads > 1 else cpu_times
    disturbance = f"other processes took up to {1 - lowest:.0%} of the CPU" if lowest < UNDISTURBED else ""
    times = {arm: [clock(block) for block in blocks] for arm, blocks in arms.items()}
    control = ratio_between(times[A], times[CONTROL])
    ratio = ratio_between(times[A], times[B]) if b else None
    verdict, stable = verdict_of(ratio, control, disturbance)
    facts = {
        **environment.describe(before, after, cpus),
        "clock": "wall" if clock is wall_times else f"CPU time, for {disturbance}",
        "lowest_cpu_share": f"{lowest:.2f}",
        "warm": f"{sum(block.warm for block in everything)} of {len(everything)} blocks",
        "blocks": f"{rounds} of {seconds / rounds:.2f} s per model, each in its own process",
        "inputs": "real" if inputs is not None else "seeded normal",
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
        target=device.name,
        runtime=arms[A][0].runtime,
        provider=PROVIDER,
        threads=threads,
        batch=batch,
        environment=facts,
    )


def rounds_for(seconds: float) -> int:
    """Blocks per arm. Processes differ more than the runs within one, so many short blocks say more than few long."""
    return min(12, max(6, round(2 * seconds)))


def run_rounds(orders: Sequence[Sequence[str]], measure: Callable[[str], Block], emit: Emit) -> Arms:
    """Measure one block per arm in every round, in the order given."""
    arms: dict[str, list[Block]] = {arm: [] for arm in orders[0]}
    for number, order in enumerate(orders, start=1):
        for arm in order:
            block = measure(arm)
            arms[arm].append(block)
            fields = {"round": number, "rounds": len(orders), "arm": arm, "cpu_share": block.cpu_share}
            emit("bench", {**fields, "wall_ms": median(block.wall), "cpu_ms": median(block.cpu)})
    return arms


def block_of(reply: Reply) -> Block:
    timing = reply["timings"][0]
    return Block(
        wall=tuple(nanoseconds / 1e6 for window in timing["wall_ns"] for nanoseconds in window),
        cpu=tuple(nanoseconds / 1e6 for window in timing["cpu_ns"] for nanoseconds in window),
        cold_start=timing["session_ms"] + timing["first_run_ms"],
        warm=timing["warm"],
        runtime=reply["runtime"],
    )


def wall_times(block: Block) -> tuple[float, ...]:
    return block.wall


def cpu_times(block: Block) -> tuple[float, ...]:
    return block.cpu


def ratio_between(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Ratio:
    return ratio_of([median(times) for times in a], [median(times) for times in b])


def latency_of(times: Sequence[Sequence[float]], blocks: Sequence[Block]) -> Latency:
    samples = tuple(sample for block in times for sample in block)
    centre = centre_of(times)
    p90, p99 = tail_quantiles(samples)
    cold = median(block.cold_start for block in blocks)
    return Latency(centre.p50, p90, p99, len(samples), (centre.low, centre.high), cold, samples)
