"""One job in a process of its own: a JSON request on stdin, a JSON response on stdout."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class WorkerError(Exception):
    """A failed job: `kind` (runtime, provider, fallback, load, input, run, output, threads), index of the `model`."""

    def __init__(self, kind: str, message: str, model: int = 0) -> None:
        super().__init__(message)
        self.kind, self.model = kind, model


def run_job(request: dict[str, Any]) -> dict[str, Any]:
    """Run the job that the request names. Raises WorkerError."""
    try:
        import numpy  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise WorkerError("runtime", str(error)) from error
    from . import profile, system_info, timing

    jobs = {
        "system_info": system_info.system_info,
        "time": timing.run_timing,
        "profile": profile.profile_nodes,
    }
    return jobs[request["do"]](request)


def worker_main() -> None:
    """Answer the request on stdout; output that libraries print is redirected to stderr."""
    from .server import error_response

    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        response = run_job(json.load(sys.stdin))
    except WorkerError as error:
        response = error_response(error.kind, str(error), error.model)
    json.dump(response, stdout)
    stdout.close()
