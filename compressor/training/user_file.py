"""Objects of a user's own Python file: `path/to/file.py:name`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from compressor.errors import DataError
from compressor.training.splits import locate
from compressor.user_folder import failures_of, importable


def call_factory(base: Path, source: str, key: str) -> Any:
    """What `file.py:factory` returns when it is called. The file is looked up under `base`; `key` is the recipe's.

    Raises DataError, at the user's own line, for whatever the code does wrong.
    """
    file, _, name = source.rpartition(":")
    path = locate(base, file, key)
    with failures_of(DataError, "data", source, path), importable(path.parent):
        return getattr(_imported(path), name)()


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
