"""One job in a process of its own: a JSON request on stdin, a JSON answer on stdout."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class WorkerError(Exception):
    """`model`: its place in the request; `kind`: runtime, provider, fallback, load, input, run, output or threads."""

    def __init__(self, kind: str, message: str, model: int = 0) -> None:
        super().__init__(message)
        self.kind, self.model = kind, model


def run_job(request: dict[str, Any]) -> dict[str, Any]:
    try:
        import numpy  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise WorkerError("runtime", str(error)) from error
    from . import profile, system_info, timing

    job = {"look": system_info.system_info, "time": timing.run_timing, "profile": profile.profile_nodes}[request["do"]]
    return job(request)


def worker_main() -> None:
    """Answer the one request; whatever libraries print goes to stderr, so that stdout is the answer alone."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        found = run_job(json.load(sys.stdin))
    except WorkerError as error:
        found = {"failure": {"kind": error.kind, "model": error.model, "message": str(error)[-2000:]}}
    json.dump(found, answer)
    answer.close()
