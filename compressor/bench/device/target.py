"""A target: a device by name, how to reach it, and how models are to be run there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from compressor.bench.device.connection import Connection, ConnectionLost
from compressor.bench.device.payload import bootstrap_program, runner_archive
from compressor.bench.device.session import Device
from compressor.bench.device.transport import LocalTransport, Transport, last_line
from compressor.errors import CompressorError, DeviceUnavailable, Temporary

PROGRAM_PREFIX = "compress: "  # what the program that receives the runner begins its last line with
GREETING_SECONDS = 60.0  # to connect, log in and start Python

Provider = Literal["cpu", "cuda", "tensorrt", "openvino", "coreml", "xnnpack", "qnn"]
GraphLevel = Literal["none", "basic", "extended", "all"]


@dataclass(frozen=True, slots=True)
class DeviceTarget:
    """Reaches nothing before `opened`. Only `name`, `power` and what the device says of itself enter a report."""

    name: str = "local"
    reach: Transport = field(default_factory=LocalTransport)
    provider: Provider = "cpu"
    threads: int = 1
    python: tuple[str, ...] = ()  # the command that runs Python there; empty = the usual one
    folder: str = "/tmp"  # where files go there
    graph: GraphLevel = "all"  # how far ONNX Runtime may optimise the graph
    options: Mapping[str, str] = field(default_factory=dict)  # of the provider
    cpu_fallback: bool = False  # whether the CPU may execute what the provider can't
    power: str = ""  # in words: supply, governor, cooling

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, which nothing leaves that is measured."""
        return self.reach.shares_files

    @contextmanager
    def opened(self) -> Iterator[Device]:
        """Reach the device and hold it alone; files sent there are gone when the block ends, however it ends.

        Raises DeviceUnavailable, and Temporary while someone else measures there.
        """
        code = runner_archive()
        asked = {
            "size": len(code),
            "sha256": hashlib.sha256(code).hexdigest(),
            "folder": self.folder if self.reach.locked else None,
        }
        command = self.reach.command(self.python, ("-c", bootstrap_program(), json.dumps(asked)))
        try:
            wire = Connection(command, os.environ)
        except OSError as error:
            problem = f"{command[0]} cannot be started: {error.strerror}"
            raise DeviceUnavailable(
                "target/transport-missing", self.name, problem, f"install {command[0]}, or repair it"
            ) from error
        try:
            try:
                wire.send(code)
                wire.greeting(GREETING_SECONDS)
                device = Device(self, wire)
            except ConnectionLost as broken:
                raise self.explained(broken, wire) from broken
            yield device
        finally:
            wire.close()

    def explained(self, broken: ConnectionLost, wire: Connection) -> CompressorError:
        """Why a connection broke, from its last words."""
        code, said = wire.ending()
        if f"{PROGRAM_PREFIX}busy" in said:
            return Temporary(
                "target/busy", self.name, "another measurement is running on it", "wait until it ends, then run again"
            )
        if "No space left" in said or "Disk quota exceeded" in said:
            return Temporary(
                "target/disk-full",
                self.name,
                "its disk is full",
                "free space there, or set another folder in targets.yaml",
            )
        if last_line(said).startswith(PROGRAM_PREFIX):
            found = last_line(said)[len(PROGRAM_PREFIX) :]
            return DeviceUnavailable(
                "target/folder-refused", self.name, found, "set another folder in targets.yaml, or run again"
            )
        trouble = self.reach.trouble(code, said)
        if trouble is not None:
            return DeviceUnavailable("target/unreachable", self.name, *trouble)
        if code in (126, 127) or "No such file" in said or "can't open" in said:
            python = " ".join(self.python) or "python3"
            found = f"{python} cannot be started on it ({last_line(said)})"
            return DeviceUnavailable(
                "target/no-python", self.name, found, "set python in targets.yaml to the right command"
            )
        found = f"{broken}" + (f" ({last_line(said)})" if said.strip() else "")
        return DeviceUnavailable("target/connection-lost", self.name, found, "check the device, then run again")
