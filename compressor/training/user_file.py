"""Objects of a user's own Python file: `path/to/file.py:name`."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError, DataError
from compressor.training.splits import locate


def call_factory(base: Path, source: str, key: str) -> Any:
    """What `file.py:factory` returns when it is called. The file is looked up under `base`; `key` is the recipe's.

    Raises DataError, at the user's own line, for whatever the code does wrong.
    """
    file, _, name = source.rpartition(":")
    path = locate(base, file, key)
    with failures_of(path, source), _importable(path.parent):
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


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The file's own folder first on the search path, as when python runs the file itself.

    A `utils.py` beside it is the one it means, not another that the model's file has imported from its own folder.
    """
    entry = folder.resolve()
    strangers = {name: module for name, module in sys.modules.items() if _hides(module, entry / f"{name}.py")}
    for name in strangers:
        del sys.modules[name]
    sys.path.insert(0, str(entry))
    try:
        yield
    finally:
        sys.path.remove(str(entry))
        sys.modules.update(strangers)


def _hides(module: object, own: Path) -> bool:
    """Whether a module, which is not an installed one, was imported under the name of another file."""
    file = Path(getattr(module, "__file__", None) or own)
    return file != own and own.is_file() and not file.is_relative_to(sys.prefix)


def _line(path: Path, fault: BaseException) -> str | None:
    """The line of the user's file that failed, where it was one of it."""
    lines = [frame.lineno for frame in traceback.extract_tb(fault.__traceback__) if Path(frame.filename) == path]
    if isinstance(fault, SyntaxError) and fault.lineno:
        lines.append(fault.lineno)
    return f"{path}:{lines[-1]}" if lines else None
