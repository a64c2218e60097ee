"""One job in a process of its own: a JSON request on stdin, a JSON answer on stdout."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class JobError(Exception):
    """`model`: its place in the request; `kind`: runtime, provider, fallback, load, input, run, output or threads."""

    def __init__(self, kind: str, message: str, model: int = 0) -> None:
        super().__init__(message)
        self.kind, self.model = kind, model


def perform(request: dict[str, Any]) -> dict[str, Any]:
    try:
        import numpy  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise JobError("runtime", str(error)) from error
    from . import machine, profile, timing

    job = {"look": machine.look, "time": timing.measure, "profile": profile.profile}[request["do"]]
    return job(request)


def main() -> None:
    """Answer the one request; whatever libraries print goes to stderr, so that stdout is the answer alone."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        found = perform(json.load(sys.stdin))
    except JobError as error:
        found = {"failure": {"kind": error.kind, "model": error.model, "message": str(error)[-2000:]}}
    json.dump(found, answer)
    answer.close()
