"""The device's end of the connection: keeps files, starts a fresh process for each job, tidies up when it ends.

A request is a line of JSON on stdin, followed by the bytes of a file where it says so; an answer is the length of a
JSON text in a line of its own and then that text. The end of stdin ends everything, a job that runs included.
"""

from __future__ import annotations

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
MAX_ANSWER = 1 << 26
LEASE = 900.0  # s without a request after which the client counts as gone
CHUNK = 1 << 16


class ClientGone(Exception):
    """The other end closed the connection, or has been silent for too long."""


def serve(work: str, archive: str) -> None:
    """Answer requests until the other end is gone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print must not get among the answers
    answers.write(b"compress-runner %d\n" % PROTOCOL)
    answers.flush()
    keeper = RequestHandler(work, archive)
    try:
        while True:
            request = json.loads(read_line())
            try:
                answer = keeper.do(request)
            except OSError as error:
                answer = error_response("disk" if error.errno in (28, 122) else "device", str(error))
            text = json.dumps(answer).encode()
            answers.write(b"%d\n" % len(text) + text)
            answers.flush()
    except (ClientGone, BrokenPipeError):
        pass
    finally:
        keeper.stop()


def error_response(kind: str, message: str) -> dict[str, Any]:
    return {"failure": {"kind": kind, "model": 0, "message": message[-2000:]}}


def read_line() -> bytes:
    """Byte by byte: what follows the line may be a file."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([0], [], [], LEASE)[0]:
            raise ClientGone
        part = os.read(0, 1)
        if not part or len(line) > MAX_LINE:
            raise ClientGone
        line += part
    return line


class RequestHandler:
    def __init__(self, work: str, archive: str) -> None:
        self.work, self.archive = work, archive
        self.files: dict[str, str] = {}  # sha256 -> where one copy of it lies
        self.job: subprocess.Popen[bytes] | None = None

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "ask":
            return {"there": request["sha256"] in self.files and self.copy(request)}
        if request["do"] == "put":
            return self.put(request)
        return self.run(request)

    def place(self, request: dict[str, Any]) -> str:
        """Where a file goes: `name` in a folder of ours, and nowhere else."""
        path = os.path.normpath(os.path.join(self.work, "files", request["name"]))
        if not path.startswith(os.path.join(self.work, "files", "")):
            raise OSError(f"not a name for a file: {request['name']!r}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def copy(self, request: dict[str, Any]) -> bool:
        shutil.copyfile(self.files[request["sha256"]], self.place(request))
        return True

    def put(self, request: dict[str, Any]) -> dict[str, Any]:
        """Receive a file. All of its bytes are read even where they can't be kept: the next request follows them."""
        left, digest, refused = request["size"], hashlib.sha256(), None
        path = self.place(request)
        with open(path, "wb", buffering=0) as file:
            while left:
                part = os.read(0, min(left, CHUNK))
                if not part:
                    raise ClientGone
                left -= len(part)
                digest.update(part)
                try:
                    while part and refused is None:
                        part = part[file.write(part) :]
                except OSError as error:
                    refused = error
        if refused is None and digest.hexdigest() != request["sha256"]:
            refused = OSError(f"{request['name']} arrived damaged")
        if refused is not None:
            os.unlink(path)
            raise refused
        self.files[request["sha256"]] = path
        return {"there": True}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do a job in a fresh process; give up when the other end does."""
        with tempfile.TemporaryFile(dir=self.work) as out, tempfile.TemporaryFile(dir=self.work) as err:
            with tempfile.TemporaryFile(dir=self.work) as asked:
                asked.write(json.dumps(request).encode())
                asked.seek(0)
                environment = dict(os.environ, ORT_DISABLE_TELEMETRY="1", OPENBLAS_NUM_THREADS="1")
                start = (
                    "import sys; sys.path.insert(0, sys.argv[1]); from runner.worker import worker_main; worker_main()"
                )
                command = [sys.executable, "-c", start, self.archive]
                self.job = subprocess.Popen(
                    command,
                    stdin=asked,
                    stdout=out,
                    stderr=err,
                    env=environment,
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
            text = out.read(MAX_ANSWER)
            try:
                answer = json.loads(text)
                assert isinstance(answer, dict)
            except (ValueError, AssertionError):
                err.seek(max(0, err.seek(0, 2) - 1000))
                said = err.read().decode(errors="replace").strip().splitlines()
                return error_response("died", f"the process ended with {code}" + (f", {said[-1]}" if said else ""))
            return answer

    def wait(self, job: subprocess.Popen[bytes], seconds: float) -> int | None:
        """The exit code, or None when it takes too long. Waking up five times a second is all that disturbs it."""
        end = time.monotonic() + seconds
        pause = 0.005
        while job.poll() is None:
            if time.monotonic() > end:
                return None
            if select.select([0], [], [], pause)[0]:  # nothing is asked while a job runs, so this is the end
                raise ClientGone
            pause = min(0.2, pause * 1.5)
        return job.returncode

    def stop(self) -> None:
        """End the job that runs, with all it started."""
        if self.job is not None and self.job.poll() is None:
            os.killpg(self.job.pid, signal.SIGKILL)
            self.job.wait()
        self.job = None
