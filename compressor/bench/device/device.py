"""A device: its name, how to reach it, and how models are run on it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from compressor.bench import runner
from compressor.bench.device.connection import Connection, ConnectionLost
from compressor.bench.device.protocol import Clock
from compressor.bench.device.session import RunnerSession
from compressor.bench.device.transport import LocalTransport, Transport
from compressor.errors import CompressorError, DeviceUnavailable, Temporary

RUNNER_FOLDER = Path(runner.__file__).parent
BOOTSTRAP = "bootstrap.py"
BOOTSTRAP_PREFIX = "compress: "  # of every error that bootstrap.py writes
GREETING_SECONDS = 60.0  # to connect, log in and start Python

Provider = Literal["cpu", "cuda", "tensorrt", "openvino", "coreml", "xnnpack", "qnn"]
GraphLevel = Literal["none", "basic", "extended", "all"]


@dataclass(frozen=True, slots=True)
class Device:
    """A description; nothing is connected before `open`. Of these fields only `name` and `power` enter a report."""

    name: str = "local"
    transport: Transport = field(default_factory=LocalTransport)
    provider: Provider = "cpu"
    threads: int = 1
    python: tuple[str, ...] = ()  # command that runs Python there; empty = the transport's default
    folder: str = "/tmp"  # for files on the device
    graph: GraphLevel = "all"  # graph optimization level of ONNX Runtime
    options: Mapping[str, str] = field(default_factory=dict)  # of the provider
    cpu_fallback: bool = False  # whether the CPU may execute operators that the provider does not support
    power: str = ""  # power supply, governor and cooling, in words

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, so that no file has to be sent."""
        return self.transport.shares_files

    @property
    def description(self) -> str:
        """Name, provider and threads: a resumed run repeats decisions only if these are equal."""
        return f"{self.name}, {self.provider}, {self.threads} threads"

    @property
    def single_threaded_cpu(self) -> bool:
        """Whether the CPU time of the calling thread is the time of a run, whoever else uses the CPU."""
        return self.threads == 1 and self.provider == "cpu"

    @property
    def clock(self) -> Clock:
        """The clock of times that are compared with one another: CPU time, where that is the time of a run."""
        return "cpu" if self.single_threaded_cpu else "wall"

    @contextmanager
    def open(self) -> Iterator[RunnerSession]:
        """Connect, and hold the device exclusively; the files sent there are deleted when the block ends.

        Raises DeviceUnavailable, or Temporary while another measurement runs there.
        """
        archive = runner_archive()
        arguments = {
            "size": len(archive),
            "sha256": hashlib.sha256(archive).hexdigest(),
            "folder": self.folder if self.transport.locked else None,
        }
        python = self.python or self.transport.default_python
        command = self.transport.command((*python, "-c", bootstrap_program(), json.dumps(arguments)))
        try:
            connection = Connection(command, os.environ)
        except OSError as error:
            problem, hint = f"{command[0]} cannot be started: {error.strerror}", f"install {command[0]}, or repair it"
            raise DeviceUnavailable("target/transport-missing", self.name, problem, hint) from error
        try:
            try:
                connection.send(archive)
                connection.read_greeting(GREETING_SECONDS)
                session = RunnerSession(self, connection)
            except ConnectionLost as lost:
                raise self.connection_error(lost, connection) from lost
            yield session
        finally:
            connection.close()

    def connection_error(self, lost: ConnectionLost, connection: Connection) -> CompressorError:
        """Find out why a connection was lost.

        Args:
            lost: What the connection noticed.
            connection: Its process is asked for exit code and last messages.

        Returns:
            The error to raise: cause and next step.
        """
        end = connection.process_end()
        if f"{BOOTSTRAP_PREFIX}busy" in end.stderr:
            problem, hint = "another measurement is running on it", "wait until it ends, then run again"
            return Temporary("target/busy", self.name, problem, hint)
        if "No space left" in end.stderr or "Disk quota exceeded" in end.stderr:
            hint = "free space there, or set another folder in targets.yaml"
            return Temporary("target/disk-full", self.name, "its disk is full", hint)
        if end.last_line.startswith(BOOTSTRAP_PREFIX):
            problem = end.last_line.removeprefix(BOOTSTRAP_PREFIX)
            hint = "set another folder in targets.yaml, or run again"
            return DeviceUnavailable("target/folder-refused", self.name, problem, hint)
        diagnosis = self.transport.diagnose(end)
        if diagnosis is not None:
            return DeviceUnavailable("target/unreachable", self.name, *diagnosis)
        if end.code in (126, 127) or "No such file" in end.stderr or "can't open" in end.stderr:
            problem = f"{' '.join(self.python) or 'python3'} cannot be started on it ({end.last_line})"
            hint = "set python in targets.yaml to the right command"
            return DeviceUnavailable("target/no-python", self.name, problem, hint)
        problem = f"{lost}" + (f" ({end.last_line})" if end.stderr.strip() else "")
        return DeviceUnavailable("target/connection-lost", self.name, problem, "check the device, then run again")


def bootstrap_program() -> str:
    """The program for `python -c` that receives the runner."""
    return (RUNNER_FOLDER / BOOTSTRAP).read_text(encoding="utf-8")


@cache
def runner_archive() -> bytes:
    """The package `runner` as a zip file without dates, so that the same code has the same hash."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(RUNNER_FOLDER.glob("*.py")):
            if path.name != BOOTSTRAP:
                file.writestr(zipfile.ZipInfo(f"runner/{path.name}"), path.read_bytes())
    return buffer.getvalue()
