"""Standard output carries the result only: what users' code and libraries print goes to standard error."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def open_standard_streams() -> None:
    """Open standard streams that the caller closed: the next file opened would otherwise get what libraries print."""
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    sys.stdout = sys.stdout or io.TextIOWrapper(io.FileIO(1, "w"))
    sys.stderr = sys.stderr or io.TextIOWrapper(io.FileIO(2, "w"))


@contextmanager
def stdout_reserved() -> Iterator[None]:
    """Let `sys.stdout` alone lead to standard output; C libraries and child processes print to standard error.

    After the block `sys.stdout` leads to standard error as well, because users' code may print while the process ends.
    """
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = open(os.dup(1), "w", encoding=encoding, errors=errors)  # noqa: SIM115 - closed below
    os.dup2(2, 1)
    try:
        yield
    finally:
        with suppress(OSError):  # `run` has told what became of the result
            sys.stdout.close()
        sys.stdout = sys.stderr
