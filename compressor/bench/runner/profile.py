"""Time of each operator by ONNX Runtime's profiler, apart from timing because profiling slows the model down."""

from __future__ import annotations

import json
import os
import tempfile
from time import perf_counter
from typing import Any

from .ort_session import LoadedSession
from .timing import WARM_CAP, WARM_RUNS, pin

SUFFIX = "_kernel_time"  # of the profiler's events that time an operator
MAX_RUNS = 200


def profile_nodes(request: dict[str, Any]) -> dict[str, Any]:
    """Profile a model for `window_s` seconds after a warm-up.

    The response lists the nodes of the optimized graph in the order of execution: name, operator, provider,
    microseconds of a run, bytes read and written.
    """
    pin(request["cpus"])
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:
        model = LoadedSession(request["models"][0], request, profile=os.path.join(folder, "ort"))
        while model.runs < WARM_RUNS:
            model.run()
        warm_runs = model.runs
        deadline = perf_counter() + min(request["window_s"], WARM_CAP)
        while model.runs == warm_runs or (perf_counter() < deadline and model.runs - warm_runs < MAX_RUNS):
            model.run()
        with open(model.session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    return {"nodes": parse_nodes(events, model.runs, warm_runs), "runs": model.runs - warm_runs}


def parse_nodes(events: list[dict[str, Any]], runs: int, warm: int) -> list[dict[str, Any]]:
    """Average the profiler's events by node.

    The time of a node is the mean over the faster half of the runs: other processes can only make a run slower, and
    the profiler counts in microseconds, too coarse for a median. A node that runs k times in each run, as in a loop,
    counts with the sum of the k times.

    Args:
        events: The profiler's file.
        runs: Number of runs, with the warm-up.
        warm: Number of runs in the warm-up, which are ignored.

    Returns:
        One dict for each node: name, op, provider, bytes, us.
    """
    nodes: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(SUFFIX):
            continue
        name, details = event["name"][: -len(SUFFIX)], event["args"]
        size = sum(int(details.get(key) or 0) for key in ("parameter_size", "activation_size", "output_size"))
        provider = details.get("provider") or ""
        empty = {"name": name, "op": details["op_name"], "provider": provider, "bytes": size, "us": []}
        nodes.setdefault(name, empty)["us"].append(event["dur"])
    for node in nodes.values():
        calls = len(node["us"]) // runs or 1  # in each run
        times = node["us"][warm * calls :] or node["us"]
        by_run = sorted(sum(times[start : start + calls]) for start in range(0, len(times), calls))
        faster = by_run[: (len(by_run) + 1) // 2]
        node["us"] = sum(faster) / len(faster)
    return list(nodes.values())
