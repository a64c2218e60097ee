"""The device that measures: where worker processes run, and what becomes of their failures."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from compressor.deploy import environment, worker
from compressor.deploy.job import Job, Timing
from compressor.deploy.worker import Failure, Reply, Request
from compressor.errors import CompressorError, DeviceUnavailable, ModelError, VerificationFailed

NAMES = ("local", "none")


class Device(Protocol):
    """A device that is reached and held: nobody else measures on it until it is let go."""

    @property
    def runtime(self) -> str:
        """Name and version of what runs the models there: `onnxruntime 1.31.1`."""

    @property
    def fingerprint(self) -> str:
        """One word for all that decides how fast a model is: processor, runtime, provider, threads, graph level."""

    def run(self, job: Job) -> tuple[Timing, ...]:
        """Time the job's models in one fresh process, each as often as there are windows; in the job's order.

        Raises ModelError for a model that can't be loaded or run, VerificationFailed for NaN or infinity in its
        output, DeviceUnavailable when the device can't be reached, dies, hangs or answers nonsense, Temporary for a
        full disk there.
        """


class Target(Protocol):
    """A device by name, and how it is to be used. It is not reached before `opened`."""

    @property
    def name(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def threads(self) -> int: ...

    def opened(self) -> AbstractContextManager[Device]:
        """Reach the device and hold it alone; files sent there are gone when the block ends, however it ends.

        Raises DeviceUnavailable, and Temporary while someone else measures there.
        """


@dataclass(frozen=True, slots=True)
class LocalDevice:
    threads: int
    cpus: tuple[int, ...]

    @property
    def runtime(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    @property
    def fingerprint(self) -> str:
        key = json.dumps([environment.cpu_model(), self.runtime, worker.PROVIDER, self.threads])
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def run(self, job: Job) -> tuple[Timing, ...]:
        request = Request(
            models=[str(path.resolve()) for path in job.models],
            threads=self.threads,
            batch=job.batch,
            cpus=list(self.cpus),
            inputs=str(job.inputs) if job.inputs else None,
            warm_s=job.warm_s,
            window_s=job.window_s,
            windows=job.windows,
        )
        reply = Local().ask(request, [str(path) for path in job.models], job.timeout)
        return tuple(
            Timing(
                wall=tuple(tuple(each / 1e6 for each in window) for window in timing["wall_ns"]),
                cpu=tuple(tuple(each / 1e6 for each in window) for window in timing["cpu_ns"]),
                session_ms=timing["session_ms"],
                first_run_ms=timing["first_run_ms"],
                warm=timing["warm"],
            )
            for timing in reply["timings"]
        )


@dataclass(frozen=True, slots=True)
class Local:
    """This machine. Every request gets a fresh process."""

    threads: int = 1
    name: str = "local"
    provider: str = worker.PROVIDER

    @contextmanager
    def opened(self) -> Iterator[Device]:
        yield LocalDevice(self.threads, tuple(environment.quietest_cpus(self.threads)))

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


def open_target(name: str, threads: int = 1) -> Local | None:
    """The target of that name; None for `none`, which measures nothing. Raises DeviceUnavailable."""
    match name:
        case "local":
            return Local(threads)
        case "none":
            return None
    raise DeviceUnavailable("unknown target", "bench.target", name, f"choose {' or '.join(NAMES)}")
