"""Times models by two clocks; a run is one `session.run`, from host arrays to host arrays.

The clocks are wall time, and the CPU time of the calling thread, which stops while another process has the CPU.
"""

from __future__ import annotations

import gc
import os
from statistics import median
from time import perf_counter, perf_counter_ns, thread_time_ns
from typing import Any

from .energy import energy_joules
from .ort_session import LoadedSession, check_finite_outputs, check_same_outputs
from .system_info import mhz
from .worker import WorkerError

WARM_RUNS = 10  # before a profile
MIN_WARM_RUNS = 4  # before a timing, of models that take longer than the warm-up
WARM_WINDOW, WARM_WINDOW_RUNS = 0.05, 3  # s at most, runs at least
WARM_DRIFT = 0.02  # relative difference of two successive windows below which the model is warm
WARM_CAP = 5.0  # s
MIN_RUNS, MAX_RUNS = 3, 5000  # of a window


def run_timing(request: dict[str, Any]) -> dict[str, Any]:
    """Warm up every model, then time all of them in turn, window by window."""
    import onnxruntime as ort

    pin(request["cpus"])
    empty = peak_bytes()
    models: list[LoadedSession] = []
    timings: list[dict[str, Any]] = []
    for index, path in enumerate(request["models"]):
        try:
            model = LoadedSession(path, request)
            reference = request["references"][index] if request["references"] else None
            error = check_same_outputs(model.outputs, reference, request["provider"]) if reference else None
            warm = warm_up(model, request["warm_s"], by_cpu=request["provider"] == "cpu")
        except WorkerError as failure:
            failure.model = index
            raise
        models.append(model)
        timings.append({"session_ms": model.session_ms, "first_run_ms": model.first_run_ms, "warm": warm})
        timings[-1].update(wall_ns=[], cpu_ns=[], energy_j=0.0, output_error=error)
    gc.collect()
    gc.disable()
    for _ in range(request["windows"]):
        for model, timing in zip(models, timings):
            before = energy_joules()
            walls, cpus = time_window(model, request["window_s"], MIN_RUNS)
            timing["wall_ns"].append(walls)
            timing["cpu_ns"].append(cpus)
            timing["energy_j"] = add_energy(timing["energy_j"], before, energy_joules())
    for timing in timings:
        runs = sum(map(len, timing["wall_ns"]))
        timing["energy_j"] = None if timing["energy_j"] is None else timing["energy_j"] / runs
    return {
        "timings": timings,
        "runtime": "onnxruntime " + ort.__version__,
        "providers": models[0].session.get_providers(),
        "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "mhz": mhz(request["cpus"]),
        "peak_bytes": max(0, peak_bytes() - empty),
    }


def pin(cpus: list[int]) -> None:
    """Run this process on these CPUs only, where the system supports that."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def add_energy(total: float | None, before: float | None, after: float | None) -> float | None:
    """Add the energy of a window.

    Args:
        total: Joules so far.
        before: The meters' joules before the window.
        after: And after it.

    Returns:
        Joules; None without a meter, or if a counter has wrapped around.
    """
    if total is None or before is None or after is None or after < before:
        return None
    return total + after - before


def time_window(model: LoadedSession, seconds: float, min_runs: int) -> tuple[list[int], list[int]]:
    """Run a model repeatedly and time every run.

    Args:
        model: The model.
        seconds: Duration of the window.
        min_runs: Number of runs at least, however long they take.

    Returns:
        Wall nanoseconds and CPU nanoseconds of each run.

    Raises:
        WorkerError: An output is not finite.
    """
    walls: list[int] = []
    cpus: list[int] = []
    deadline = perf_counter_ns() + int(seconds * 1e9)
    while True:
        cpu = thread_time_ns()
        start = perf_counter_ns()
        outputs = model.run()
        now = perf_counter_ns()
        cpus.append(thread_time_ns() - cpu)
        walls.append(now - start)
        if (now >= deadline and len(walls) >= min_runs) or len(walls) >= MAX_RUNS:
            break
    check_finite_outputs(outputs)
    return walls, cpus


def warm_up(model: LoadedSession, seconds: float, by_cpu: bool) -> bool:
    """Run for some time and at least 4 runs, then until two successive windows differ by less than 2 %.

    Args:
        model: The model.
        seconds: Duration of the first part.
        by_cpu: Compare CPU times, because other processes make wall times drift long after the model is warm. An
            accelerator needs wall time: the calling thread waits for it.

    Returns:
        False if the windows never agreed before the time limit.
    """
    start = perf_counter()
    while (model.runs < MIN_WARM_RUNS or perf_counter() - start < seconds) and perf_counter() - start < WARM_CAP:
        model.run()
    window = min(WARM_WINDOW, seconds)
    clock = 1 if by_cpu else 0
    last = median(time_window(model, window, WARM_WINDOW_RUNS)[clock])
    while True:
        previous, last = last, median(time_window(model, window, WARM_WINDOW_RUNS)[clock])
        if abs(last - previous) < WARM_DRIFT * previous:
            return True
        if perf_counter() - start > WARM_CAP:
            return False
