"""Writing the report's files so that none is ever half there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write beside and rename."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Strict and readable JSON, keys in the order given.

    Raises ValueError for NaN and infinities, TypeError for what JSON has no form for.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
