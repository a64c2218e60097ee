"""Objects of a user's own Python file: `path/to/file.py:name`."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError, DataError
from compressor.training.splits import locate
from compressor.user_folder import importable


def call_factory(base: Path, source: str, key: str) -> Any:
    """What `file.py:factory` returns when it is called. The file is looked up under `base`; `key` is the recipe's.

    Raises DataError, at the user's own line, for whatever the code does wrong.
    """
    file, _, name = source.rpartition(":")
    path = locate(base, file, key)
    with failures_of(path, source), importable(path.parent):
        return getattr(_imported(path), name)()


@contextmanager
def failures_of(path: Path | None, where: str) -> Iterator[None]:
    """Turn what a user's code raises, which may be anything, into one line; `path`: the file to find the place in."""
    try:
        yield
    except CompressorError:
        raise
    except (Exception, SystemExit) as fault:  # a call of sys.exit too
        found = f"{type(fault).__name__}: {fault}"
        raise DataError("data", (path and _line(path, fault)) or where, found, "correct the code") from fault


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _line(path: Path, fault: BaseException) -> str | None:
    """The line of the user's file that failed, where it was one of it."""
    lines = [frame.lineno for frame in traceback.extract_tb(fault.__traceback__) if Path(frame.filename) == path]
    if isinstance(fault, SyntaxError) and fault.lineno:
        lines.append(fault.lineno)
    return f"{path}:{lines[-1]}" if lines else None
