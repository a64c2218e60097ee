"""Times ONNX files in a process of its own: one JSON request on stdin, one JSON reply on stdout.

Imports nothing but numpy and ONNX Runtime, not even its own package: a fresh process per block must start fast, and
the file can be run anywhere as it is. A run is one `session.run`, from host arrays to host arrays, timed by two clocks:
the wall, and the CPU time of the calling thread, which does not go on while another process has its CPU.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, perf_counter_ns, thread_time_ns
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

PROVIDER = "CPUExecutionProvider"
WARM_RUNS = 10
WARM_WINDOW = 0.05  # s at most, and at least 3 runs
WARM_DRIFT = 0.02  # two successive windows this close count as warm
WARM_CAP = 5.0  # s
MIN_RUNS, MAX_RUNS = 5, 5000  # of one measuring window
MAX_FEEDS = 8  # different batches that are cycled through


class Request(TypedDict):
    """What to time. Several models are timed in turn, window by window, so that drift meets all of them alike."""

    models: list[str]
    threads: int
    batch: int
    cpus: list[int]  # to pin to; empty = do not pin
    inputs: str | None  # .npy of real inputs (n, ...) for the first input; None = seeded normal
    warm_s: float
    window_s: float
    windows: int


class Timing(TypedDict):
    session_ms: float
    first_run_ms: float
    warm: bool  # False = still drifting when the cap was reached
    wall_ns: list[list[int]]  # of each run, by window
    cpu_ns: list[list[int]]


class Reply(TypedDict):
    timings: list[Timing]
    runtime: str
    provider: str


class Failure(TypedDict):
    """`kind`: runtime | provider | load | input | run | output, what went wrong; `model`: its place in the request."""

    kind: str
    model: int
    message: str


class WorkerError(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class Candidate:
    """One model under the clock."""

    run: Callable[[int], Sequence[NDArray[Any]]]  # run number -> outputs
    timing: Timing
    runs: int = 0


DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def feed(inputs: Sequence[Any], batch: int, real: NDArray[Any] | None, number: int) -> dict[str, NDArray[Any]]:
    """One batch for a session's inputs: `real` images in the first where given, else seeded values.

    A free first dimension is the batch, any other free dimension 1. Floats are standard normal, integers 0 or 1.
    Raises WorkerError when the model's own batch is another, or for types that can't be made up.
    """
    rng = np.random.default_rng(number)
    arrays: dict[str, NDArray[Any]] = {}
    for place, node in enumerate(inputs):
        dtype = DTYPES.get(node.type)
        if dtype is None:
            raise WorkerError("input", f"input {node.name} is a {node.type}, which can't be made up")
        shape = [size if isinstance(size, int) else (batch if dim == 0 else 1) for dim, size in enumerate(node.shape)]
        if place == 0 and shape and shape[0] != batch:
            raise WorkerError("input", f"input {node.name} is fixed at batch {shape[0]}, not {batch}")
        if place == 0 and real is not None:
            arrays[node.name] = real[np.arange(number * batch, (number + 1) * batch) % len(real)].astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            arrays[node.name] = rng.standard_normal(shape).astype(dtype)
        else:
            arrays[node.name] = rng.integers(0, 2, shape).astype(dtype)
    return arrays


def open_model(path: str, request: Request) -> Candidate:
    """Create the session, check who really executes it, and time its first run."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = request["threads"], 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    start = perf_counter()
    try:
        session = ort.InferenceSession(path, options, providers=[PROVIDER])
    except Exception as error:
        raise WorkerError("load", str(error)) from error
    session_ms = (perf_counter() - start) * 1e3
    if session.get_providers() != [PROVIDER]:
        raise WorkerError("provider", f"asked for {PROVIDER}, got {', '.join(session.get_providers())}")

    real = np.load(request["inputs"], allow_pickle=False) if request["inputs"] else None
    count = 1 if real is None else min(MAX_FEEDS, -(-len(real) // request["batch"]))
    feeds = [feed(session.get_inputs(), request["batch"], real, number) for number in range(count)]
    start = perf_counter()
    try:
        outputs = session.run(None, feeds[0])
    except Exception as error:
        free = [f"{node.name}: {node.shape}" for node in session.get_inputs()]
        raise WorkerError("run", f"{error} (inputs {', '.join(free)}; free dimensions were set to 1)") from error
    first_run_ms = (perf_counter() - start) * 1e3
    check_finite(outputs)
    timing = Timing(session_ms=session_ms, first_run_ms=first_run_ms, warm=False, wall_ns=[], cpu_ns=[])
    return Candidate(lambda number: session.run(None, feeds[number % count]), timing)


def check_finite(outputs: Sequence[NDArray[Any]]) -> None:
    """A fast model that computes nonsense must not get a number."""
    for array in outputs:
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WorkerError("output", "the output holds NaN or infinity")


def time_window(candidate: Candidate, seconds: float, least: int) -> tuple[list[int], list[int]]:
    """Wall and CPU nanoseconds of each run, for `seconds` and at least `least` runs."""
    walls: list[int] = []
    cpus: list[int] = []
    end = perf_counter_ns() + int(seconds * 1e9)
    outputs: Sequence[NDArray[Any]] = ()
    while True:
        cpu = thread_time_ns()
        start = perf_counter_ns()
        outputs = candidate.run(candidate.runs)
        now = perf_counter_ns()
        cpus.append(thread_time_ns() - cpu)
        walls.append(now - start)
        candidate.runs += 1
        if (now >= end and len(walls) >= least) or len(walls) >= MAX_RUNS:
            break
    check_finite(outputs)
    return walls, cpus


def warm_up(candidate: Candidate, seconds: float) -> bool:
    """Run for `seconds` and 10 runs, then until two successive windows agree within 2 %; False if they never do.

    Judged by CPU time: neighbours that come and go make the wall clock drift long after the model is warm.
    """
    start = perf_counter()
    while (candidate.runs < WARM_RUNS or perf_counter() - start < seconds) and perf_counter() - start < WARM_CAP:
        candidate.run(candidate.runs)
        candidate.runs += 1
    window = min(WARM_WINDOW, seconds)
    last = median(time_window(candidate, window, 3)[1])
    while True:
        last, before = median(time_window(candidate, window, 3)[1]), last
        if abs(last - before) < WARM_DRIFT * before:
            return True
        if perf_counter() - start > WARM_CAP:
            return False


def measure(request: Request) -> Reply:
    """Warm every model up, then time them window by window in turn."""
    if request["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cpus"])
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise WorkerError("runtime", str(error)) from error
    candidates: list[Candidate] = []
    for place, path in enumerate(request["models"]):
        try:
            candidate = open_model(path, request)
            candidate.timing["warm"] = warm_up(candidate, request["warm_s"])
        except WorkerError as error:
            error.add_note(str(place))
            raise
        candidates.append(candidate)
    gc.collect()
    gc.disable()
    for _ in range(request["windows"]):
        for candidate in candidates:
            walls, cpus = time_window(candidate, request["window_s"], MIN_RUNS)
            candidate.timing["wall_ns"].append(walls)
            candidate.timing["cpu_ns"].append(cpus)
    timings = [candidate.timing for candidate in candidates]
    return Reply(timings=timings, runtime=f"onnxruntime {ort.__version__}", provider=PROVIDER)


def main() -> None:
    """Answer the one request; whatever libraries print goes to stderr, so that stdout is the reply alone."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = cast(Request, json.load(sys.stdin))
    reply: Reply | Failure
    try:
        reply = measure(request)
    except WorkerError as error:
        place = int(error.__notes__[0]) if getattr(error, "__notes__", None) else 0
        reply = Failure(kind=error.kind, model=place, message=str(error))
    json.dump(reply, answer)
    answer.close()


if __name__ == "__main__":
    main()
