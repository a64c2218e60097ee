"""Files of tensors and records, which are read without unpickling anything else."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compressor.atomic_write import write_bytes


def write_saved(path: Path, saved: Mapping[str, object]) -> None:
    """Write a file for a resumed run, and its folder.

    Args:
        path: The file.
        saved: Tensors, numbers, text, containers of these, and records.

    Raises:
        OSError: It cannot be written.
    """
    buffer = io.BytesIO()  # because torch reports a full disk as a RuntimeError
    torch.save(saved, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getbuffer())


def read_saved(path: Path, records: Sequence[Any] = ()) -> dict[str, Any] | None:
    """Read what `write_saved` wrote, without unpickling anything but the given classes.

    Args:
        path: The file.
        records: The classes of records and arrays.

    Returns:
        The content; None where there is no file, or one that cannot be read.
    """
    try:
        with torch.serialization.safe_globals([*records]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # no file, or one that the unpickler rejects in any way
        return None
    return saved if isinstance(saved, dict) else None
