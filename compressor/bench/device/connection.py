"""The connection to a runner: a process whose stdin and stdout reach it, with a time limit on every byte."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO

from compressor.bench.runner import PROTOCOL

MAX_ANSWER = 1 << 26  # bytes; a job's samples take a few MB at the very most
MAX_GREETING = 1 << 16  # a login may print something before the runner speaks
STALL_SECONDS = 60.0  # in which some bytes at least must be taken there
CLOSE_SECONDS = 5.0  # for the device to tidy up
LAST_WORDS_SECONDS = 1.0  # for a process that is about to end, to say why
GREETING = b"compress-runner "


class ConnectionLost(Exception):
    """The other end is gone, silent, or speaks another language."""


class Connection:
    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Raises OSError when the command can't be started."""
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the wire)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us: we end it, after it has tidied up
            )
        except OSError:
            self._said.close()
            raise
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._read = bytearray()

    def send(self, data: bytes) -> None:
        """Raises Broken when nothing is taken for a minute."""
        left = memoryview(data)
        while left:
            if not select.select([], [self._in], [], STALL_SECONDS)[1]:
                raise ConnectionLost(f"it took no data for {STALL_SECONDS:.0f} s")
            try:
                left = left[os.write(self._in, left[: 1 << 20]) :]
            except OSError as error:
                raise ConnectionLost("the connection ended") from error

    def ask(self, request: Mapping[str, object]) -> None:
        self.send(json.dumps(request).encode() + b"\n")

    def greeting(self, seconds: float) -> None:
        """Wait for the runner's first line, which names its protocol."""
        end, lines = time.monotonic() + seconds, 0
        while lines < MAX_GREETING:
            line = self._line(end, MAX_GREETING)
            if line.startswith(GREETING):
                if line != GREETING + b"%d" % PROTOCOL:
                    found = line[len(GREETING) :][:20].decode(errors="replace")
                    raise ConnectionLost(f"the runner there speaks protocol {found}, this version {PROTOCOL}")
                return
            lines += len(line) + 1
        raise ConnectionLost("no runner answered, something else did")

    def answer(self, seconds: float) -> bytes:
        """The next answer's JSON text."""
        end = time.monotonic() + seconds
        line = self._line(end, 20)
        if not line.isdigit():
            raise ConnectionLost("garbage instead of an answer")
        size = int(line)
        if size > MAX_ANSWER:
            raise ConnectionLost(f"an answer of {size} bytes, at most {MAX_ANSWER} are taken")
        while len(self._read) < size:
            self._more(end)
        return self._take(size)

    def close(self) -> None:
        """Tell the other end that this is all, give it the time to tidy up, and end what is left."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def ending(self) -> tuple[int | None, str]:
        """Exit code and last words of a process that is about to end or has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_WORDS_SECONDS)
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - 4000))
        return self._process.poll(), self._said.read().decode(errors="replace")

    def _line(self, end: float, most: int) -> bytes:
        while b"\n" not in self._read:
            if len(self._read) > most:
                raise ConnectionLost("garbage instead of an answer")
            self._more(end)
        line = self._take(self._read.index(b"\n") + 1)
        return line[:-1]

    def _take(self, size: int) -> bytes:
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken

    def _more(self, end: float) -> None:
        left = end - time.monotonic()
        if left <= 0 or not select.select([self._out], [], [], left)[0]:
            raise ConnectionLost("no answer in time")
        part = os.read(self._out, 1 << 16)
        if not part:
            raise ConnectionLost("the connection ended")
        self._read += part
