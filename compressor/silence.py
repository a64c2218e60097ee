"""Silence for libraries that log and print."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
from collections.abc import Iterator

STREAMS = (1, 2)  # stdout, stderr


@contextlib.contextmanager
def silent_logging(level: int) -> Iterator[None]:
    """Within, records up to `level` are not logged. What the user has disabled remains disabled afterwards."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def silent_output() -> Iterator[None]:
    """Within, what Python writes to stdout and stderr is lost."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


@contextlib.contextmanager
def silent_streams() -> Iterator[None]:
    """Within, what the process writes to stdout and stderr is lost: C++ prints past Python's streams."""
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
