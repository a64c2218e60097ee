"""Times models: a run is one `session.run`, from host arrays to host arrays, by two clocks.

They are the wall, and the CPU time of the calling thread, which stands still while another process has its CPU.
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

WARM_RUNS = 10
WARM_WINDOW = 0.05  # s at most, and at least 3 runs
WARM_DRIFT = 0.02  # two successive windows this close count as warm
WARM_CAP = 5.0  # s
MIN_RUNS, MAX_RUNS = 5, 5000  # of one measuring window


def run_timing(request: dict[str, Any]) -> dict[str, Any]:
    """Warm every model up, then time them window by window in turn."""
    import onnxruntime as ort

    pin(request["cpus"])
    empty = peak_bytes()
    models: list[LoadedSession] = []
    timings: list[dict[str, Any]] = []
    for place, path in enumerate(request["models"]):
        try:
            model = LoadedSession(path, request)
            reference = request["references"][place] if request["references"] else None
            error = check_same_outputs(model.outputs, reference, request["provider"]) if reference else None
            warm = warm_up(model, request["warm_s"], by_cpu=request["provider"] == "cpu")
        except WorkerError as failed:
            failed.model = place
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
            timing["energy_j"] = cpu_seconds(timing["energy_j"], before, energy_joules())
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
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def peak_bytes() -> int:
    """Most memory this process has had resident."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_seconds(so_far: float | None, before: float | None, after: float | None) -> float | None:
    """Joules in all; None where there is no meter, or where one has wrapped around."""
    if so_far is None or before is None or after is None or after < before:
        return None
    return so_far + after - before


def time_window(model: LoadedSession, seconds: float, least: int) -> tuple[list[int], list[int]]:
    """Wall and CPU nanoseconds of each run, for `seconds` and at least `least` runs."""
    walls: list[int] = []
    cpus: list[int] = []
    end = perf_counter_ns() + int(seconds * 1e9)
    while True:
        cpu = thread_time_ns()
        start = perf_counter_ns()
        outputs = model.run()
        now = perf_counter_ns()
        cpus.append(thread_time_ns() - cpu)
        walls.append(now - start)
        if (now >= end and len(walls) >= least) or len(walls) >= MAX_RUNS:
            break
    check_finite_outputs(outputs)
    return walls, cpus


def warm_up(model: LoadedSession, seconds: float, by_cpu: bool) -> bool:
    """Run for `seconds` and 10 runs, then until two successive windows agree within 2 %; False if they never do.

    Judged by CPU time where the CPU computes: neighbours that come and go make the wall clock drift long after the
    model is warm. An accelerator's model is computed while the calling thread waits.
    """
    start = perf_counter()
    while (model.runs < WARM_RUNS or perf_counter() - start < seconds) and perf_counter() - start < WARM_CAP:
        model.run()
    window = min(WARM_WINDOW, seconds)
    clock = 1 if by_cpu else 0
    last = median(time_window(model, window, 3)[clock])
    while True:
        last, before = median(time_window(model, window, 3)[clock]), last
        if abs(last - before) < WARM_DRIFT * before:
            return True
        if perf_counter() - start > WARM_CAP:
            return False
