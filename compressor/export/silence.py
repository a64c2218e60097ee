"""Silence for libraries that print from C++, past Python's streams."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

STREAMS = (1, 2)  # stdout, stderr


@contextlib.contextmanager
def silent_streams() -> Iterator[None]:
    """Within, what the process writes to stdout and stderr is lost, whoever writes it."""
    _flush()
    saved = [os.dup(stream) for stream in STREAMS]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in STREAMS:
            os.dup2(nowhere, stream)
        yield
    finally:
        _flush()
        for stream, copy in zip(STREAMS, saved, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)


def _flush() -> None:
    """Write what Python and C hold back while the streams are still what they were."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ctypes.CDLL(None).fflush(None)
