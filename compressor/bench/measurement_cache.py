"""The user's cache of measurements: one JSON file for each device and way of using it, name -> positive number."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from compressor.atomic_write import write_text


def cache_file(fingerprint: str) -> Path:
    """The file for a device's fingerprint."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "compress" / f"measurements-{fingerprint}.json"


def read_cache(path: Path) -> dict[str, float]:
    """The measurements in a file; empty if it is missing or damaged."""
    try:
        entries = json.loads(path.read_text())
        return {str(name): value for name, value in entries.items() if math.isfinite(value) and value > 0}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def add_to_cache(path: Path, entries: Mapping[str, float]) -> None:
    """Add measurements to a file. A file that cannot be written is ignored: the next run measures again.

    Args:
        path: The file.
        entries: The measurements by name.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({**read_cache(path), **entries}))
