"""The device that measures: where worker processes run, and what becomes of their failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

from compressor.deploy import worker
from compressor.deploy.worker import Failure, Reply, Request
from compressor.errors import CompressorError, DeviceUnavailable, ModelError, VerificationFailed

NAMES = ("local", "none")


class Local:
    """This machine. Every request gets a fresh process."""

    name = "local"

    def ask(self, request: Request, labels: list[str], timeout: float) -> Reply:
        """Run one worker. `labels` name the request's models in errors.

        Raises ModelError for a model that can't be loaded or run, VerificationFailed for NaN or infinity in its
        output, DeviceUnavailable when the worker can't start, dies, hangs or answers nonsense.
        """
        # -P keeps both the current folder and the worker's own out of the import path: a user's numpy.py stays theirs.
        command = [sys.executable, "-P", str(Path(worker.__file__).resolve())]
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}
        where = f"target {self.name}, {', '.join(labels)}"
        try:
            done = subprocess.run(
                command, input=json.dumps(request).encode(), capture_output=True, timeout=timeout, env=environment
            )
        except subprocess.TimeoutExpired as error:
            todo = "use a smaller batch, or a machine that is less busy"
            raise DeviceUnavailable("measurement", where, f"no answer within {timeout:.0f} s", todo) from error
        except OSError as error:
            raise DeviceUnavailable("measurement", where, f"can't start {command[0]}: {error}", "mend it") from error
        try:
            reply = json.loads(done.stdout)
            assert isinstance(reply, dict)
        except (ValueError, AssertionError) as error:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            found = f"the process ended with {done.returncode}" + (f", {said[-1][:200]}" if said else "")
            todo = "check the memory left; run again"
            raise DeviceUnavailable("measurement", where, found, todo) from error
        if "kind" in reply:
            raise error_of(cast(Failure, reply), labels)
        return cast(Reply, reply)


def error_of(failure: Failure, labels: list[str]) -> CompressorError:
    where, found = labels[failure["model"]], failure["message"]
    if len(found) > 300:
        found = f"{found[:100]} ... {found[-200:]}"  # the runtime's reason stands at the end
    match failure["kind"]:
        case "load":
            return ModelError("not a model ONNX Runtime can load", where, found, "export it again, or check the file")
        case "run":
            return ModelError("the model does not run", where, found, "check its inputs")
        case "input":
            return ModelError("can't make inputs", where, found, "choose that batch, or fix the model's inputs")
        case "output":
            return VerificationFailed("non-finite numbers", where, found, "check the model on these inputs")
        case _:
            return DeviceUnavailable("ONNX Runtime", where, found, "check its installation")


def open_target(name: str) -> Local | None:
    """The target of that name; None for `none`, which measures nothing. Raises DeviceUnavailable."""
    match name:
        case "local":
            return Local()
        case "none":
            return None
    raise DeviceUnavailable("unknown target", "bench.target", name, f"choose {' or '.join(NAMES)}")
