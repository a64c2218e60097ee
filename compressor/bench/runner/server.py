"""The device's side of the connection: stores files, runs each job in a new process, and ends when stdin does.

A request is one line of JSON on stdin; the bytes of a file may follow. A response is the length of a JSON text on a
line of its own, then the text. A job that runs is killed when the connection ends.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from . import PROTOCOL

MAX_LINE = 1 << 20
MAX_RESPONSE = 1 << 26
MAX_MESSAGE = 2000  # characters
LEASE = 900.0  # s without a request after which the client is considered gone
CHUNK = 1 << 16
WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from runner.worker import worker_main; worker_main()"


class ClientGone(Exception):
    """The client closed the connection or has been silent for too long."""


def serve(work: str, archive: str) -> None:
    """Answer requests until the client is gone.

    Args:
        work: This session's folder.
        archive: The zip file with this package, for the processes that run jobs.
    """
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output that libraries print must not get between the responses
    responses.write(b"compress-runner %d\n" % PROTOCOL)
    responses.flush()
    handler = RequestHandler(work, archive)
    try:
        while True:
            request = json.loads(read_line())
            try:
                response = handler.handle(request)
            except OSError as error:
                is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                response = error_response("disk" if is_full else "device", str(error))
            text = json.dumps(response).encode()
            responses.write(b"%d\n" % len(text) + text)
            responses.flush()
    except (ClientGone, BrokenPipeError):
        pass
    finally:
        handler.stop()


def error_response(kind: str, message: str, model: int = 0) -> dict[str, Any]:
    """Make the response for a failed request.

    Args:
        kind: As `DeviceError.kind` on the other side lists them.
        message: The reason; the end of a long one is kept.
        model: Index of the model in the request.

    Returns:
        The response.
    """
    return {"failure": {"kind": kind, "model": model, "message": message[-MAX_MESSAGE:]}}


def open_pidfd(pid: int) -> int | None:
    """A file that is readable once the process has ended; None before Linux 5.3 and Python 3.9, and elsewhere."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def read_line() -> bytes:
    """Read a line byte by byte, because the bytes after it may belong to a file."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([0], [], [], LEASE)[0]:
            raise ClientGone
        byte = os.read(0, 1)
        if not byte or len(line) > MAX_LINE:
            raise ClientGone
        line += byte
    return line


class RequestHandler:
    """Keeps the files of a session and the process of its current job."""

    def __init__(self, work: str, archive: str) -> None:
        self.work, self.archive = work, archive
        self.files: dict[str, str] = {}  # sha256 -> path of a copy
        self.job: subprocess.Popen[bytes] | None = None

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Perform a request: copy or put a file, or run a job."""
        if request["do"] == "copy":
            return {"present": self.copy(request)}
        if request["do"] == "put":
            return self.put(request)
        return self.run(request)

    def file_path(self, request: dict[str, Any]) -> str:
        """The path for the file `name`, which must lie in this session's folder."""
        path = os.path.normpath(os.path.join(self.work, "files", request["name"]))
        if not path.startswith(os.path.join(self.work, "files", "")):
            raise OSError(f"not a name for a file: {request['name']!r}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def copy(self, request: dict[str, Any]) -> bool:
        """Copy a file that was sent before; False if there is none with this hash."""
        source = self.files.get(request["sha256"])
        if source is not None:
            shutil.copyfile(source, self.file_path(request))
        return source is not None

    def put(self, request: dict[str, Any]) -> dict[str, Any]:
        """Receive a file. Its bytes are read even if they cannot be stored, because the next request follows them."""
        remaining, digest, error = request["size"], hashlib.sha256(), None
        path = self.file_path(request)
        with open(path, "wb", buffering=0) as file:
            while remaining:
                chunk = os.read(0, min(remaining, CHUNK))
                if not chunk:
                    raise ClientGone
                remaining -= len(chunk)
                digest.update(chunk)
                try:
                    while chunk and error is None:
                        chunk = chunk[file.write(chunk) :]
                except OSError as reason:
                    error = reason
        if error is None and digest.hexdigest() != request["sha256"]:
            error = OSError(f"{request['name']} arrived damaged")
        if error is not None:
            os.unlink(path)
            raise error
        self.files[request["sha256"]] = path
        return {"present": True}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a job in a new process, and kill it when the client is gone."""
        with tempfile.TemporaryFile(dir=self.work) as out, tempfile.TemporaryFile(dir=self.work) as err:
            with tempfile.TemporaryFile(dir=self.work) as stdin:
                stdin.write(json.dumps(request).encode())
                stdin.seek(0)
                self.job = subprocess.Popen(
                    [sys.executable, "-c", WORKER, self.archive],
                    stdin=stdin,
                    stdout=out,
                    stderr=err,
                    env=dict(os.environ, ORT_DISABLE_TELEMETRY="1", OPENBLAS_NUM_THREADS="1"),
                    cwd=self.work,
                    start_new_session=True,
                )
            try:
                code = self.wait(self.job, request["timeout"])
            finally:
                self.stop()
            if code is None:
                return error_response("slow", f"no answer within {request['timeout']:.0f} s")
            out.seek(0)
            try:
                response = json.loads(out.read(MAX_RESPONSE))
            except ValueError:
                response = None
            if not isinstance(response, dict):
                err.seek(max(0, err.seek(0, 2) - 1000))
                lines = err.read().decode(errors="replace").strip().splitlines()
                return error_response("died", f"the process ended with {code}" + (f", {lines[-1]}" if lines else ""))
            return response

    def wait(self, job: subprocess.Popen[bytes], seconds: float) -> int | None:
        """Wait for a job without disturbing the measurement: Linux reports its end, elsewhere it is polled ever less.

        Args:
            job: The process.
            seconds: Its time limit.

        Returns:
            The exit code; None when the time limit is over.

        Raises:
            ClientGone: The connection ended.
        """
        deadline = time.monotonic() + seconds
        end = open_pidfd(job.pid)
        pause = 0.005 if end is None else 1.0
        try:
            while job.poll() is None:
                if time.monotonic() > deadline:
                    return None
                # No request is sent while a job runs, so stdin is readable only at its end.
                if 0 in select.select([0] if end is None else [0, end], [], [], pause)[0]:
                    raise ClientGone
                pause = max(pause, min(0.2, pause * 1.5))
        finally:
            if end is not None:
                os.close(end)
        return job.returncode

    def stop(self) -> None:
        """Kill the current job and all processes that it started."""
        if self.job is not None and self.job.poll() is None:
            os.killpg(self.job.pid, signal.SIGKILL)
            self.job.wait()
        self.job = None
