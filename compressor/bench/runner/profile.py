"""Time of each operator by ONNX Runtime's profiler: a pass of its own, since profiling slows the model down."""

from __future__ import annotations

import json
import os
import tempfile
from time import perf_counter
from typing import Any

from .ort_session import LoadedSession
from .timing import WARM_CAP, WARM_RUNS, pin

SUFFIX = "_kernel_time"
MAX_RUNS = 200


def profile_nodes(request: dict[str, Any]) -> dict[str, Any]:
    """For each node of the optimised graph: name, operator, provider, microseconds of a run, bytes it reads and writes.

    The mean over the faster half of the runs of `window_s`: the profiler counts whole microseconds, which a median
    would show, and neighbours can only make a run slower. Those of the warm-up are left out. In the order they ran in.
    """
    pin(request["cpus"])
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:
        model = LoadedSession(request["models"][0], request, profile=os.path.join(folder, "ort"))
        while model.runs < WARM_RUNS:
            model.run()
        warm = model.runs
        end = perf_counter() + min(request["window_s"], WARM_CAP)
        while model.runs == warm or (perf_counter() < end and model.runs - warm < MAX_RUNS):
            model.run()
        with open(model.session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    return {"nodes": parse_nodes(events, model.runs, warm), "runs": model.runs - warm}


def parse_nodes(events: list[dict[str, Any]], runs: int, warm: int) -> list[dict[str, Any]]:
    """A node that ran k times in each run (in a loop) is listed once, with its time in all of the run."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(SUFFIX):
            continue
        name, told = event["name"][: -len(SUFFIX)], event["args"]
        moved = sum(int(told.get(key) or 0) for key in ("parameter_size", "activation_size", "output_size"))
        node = found.setdefault(
            name,
            {"name": name, "op": told["op_name"], "provider": told.get("provider") or "", "bytes": moved, "us": []},
        )
        node["us"].append(event["dur"])
    for node in found.values():
        each = len(node["us"]) // runs or 1
        steady = node["us"][warm * each :] or node["us"]
        by_run = sorted(sum(steady[start : start + each]) for start in range(0, len(steady), each))
        faster = by_run[: (len(by_run) + 1) // 2]
        node["us"] = sum(faster) / len(faster)
    return list(found.values())
