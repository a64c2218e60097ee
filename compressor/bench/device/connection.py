"""The connection to a runner: a process whose stdin and stdout lead to it, with a time limit on every transfer."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from compressor.bench.runner import PROTOCOL

MAX_RESPONSE = 1 << 26  # bytes; the samples of a job take a few MB
MAX_GREETING = 1 << 16  # bytes that a login may print before the runner's greeting
STALL_SECONDS = 60.0  # without progress, after which sending fails
CLOSE_SECONDS = 5.0  # for the device to clean up
EXIT_SECONDS = 1.0  # for a process that is about to end to write its last message
CHUNK = 1 << 20
GREETING = b"compress-runner "


class ConnectionLost(Exception):
    """The other side has ended, does not respond, or does not follow the protocol."""


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a process ended: its exit code (None = it still runs) and the end of what it wrote to stderr."""

    code: int | None
    stderr: str

    @property
    def last_line(self) -> str:
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1][:200] if lines else "it wrote no message"


class Connection:
    """Starts a process and exchanges requests and responses with the runner behind it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `command`. Raises OSError when it cannot be started."""
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the connection)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment,
                start_new_session=True,  # Ctrl-C must not reach it: `close` ends it after it has cleaned up
            )
        except OSError:
            self._stderr.close()
            raise
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        """Send raw bytes. Raises ConnectionLost when the other side accepts nothing for a minute."""
        remaining = memoryview(data)
        while remaining:
            if not select.select([], [self._in], [], STALL_SECONDS)[1]:
                raise ConnectionLost(f"it accepted no data for {STALL_SECONDS:.0f} s")
            try:
                remaining = remaining[os.write(self._in, remaining[:CHUNK]) :]
            except OSError as error:
                raise ConnectionLost("the connection ended") from error

    def send_request(self, request: Mapping[str, object]) -> None:
        """Send one line of JSON."""
        self.send(json.dumps(request).encode() + b"\n")

    def read_greeting(self, seconds: float) -> None:
        """Wait for the runner's greeting, and check that it speaks the same protocol."""
        deadline, skipped = time.monotonic() + seconds, 0
        while skipped < MAX_GREETING:
            line = self._read_line(deadline, MAX_GREETING)
            if line.startswith(GREETING):
                if line != GREETING + b"%d" % PROTOCOL:
                    version = line[len(GREETING) :][:20].decode(errors="replace")
                    raise ConnectionLost(f"the runner there speaks protocol {version}, this version {PROTOCOL}")
                return
            skipped += len(line) + 1
        raise ConnectionLost("no runner answered, another program did")

    def read_response(self, seconds: float) -> bytes:
        """Wait for the next response, and return its JSON text."""
        deadline = time.monotonic() + seconds
        line = self._read_line(deadline, 20)
        if not line.isdigit():
            raise ConnectionLost("garbage instead of an answer")
        size = int(line)
        if size > MAX_RESPONSE:
            raise ConnectionLost(f"an answer of {size} bytes, at most {MAX_RESPONSE} are allowed")
        while len(self._buffer) < size:
            self._fill_buffer(deadline)
        return self._take(size)

    def close(self) -> None:
        """Close stdin, which ends the runner; kill the process if it has not ended after a few seconds."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def process_end(self) -> ProcessEnd:
        """Exit code and last messages of a process that has ended or is about to."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_SECONDS)
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 4000))
        return ProcessEnd(self._process.poll(), self._stderr.read().decode(errors="replace"))

    def _read_line(self, deadline: float, max_bytes: int) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > max_bytes:
                raise ConnectionLost("garbage instead of an answer")
            self._fill_buffer(deadline)
        return self._take(self._buffer.index(b"\n") + 1)[:-1]

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill_buffer(self, deadline: float) -> None:
        seconds = deadline - time.monotonic()
        if seconds <= 0 or not select.select([self._out], [], [], seconds)[0]:
            raise ConnectionLost("no answer in time")
        data = os.read(self._out, 1 << 16)
        if not data:
            raise ConnectionLost("the connection ended")
        self._buffer += data
