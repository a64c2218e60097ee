"""Files that are never half-written: each is written under a temporary name and renamed once it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def move_into_place(draft: Path, path: Path, *companions: Path) -> None:
    """Rename a finished file to `path`, after the files that it refers to.

    Args:
        draft: The finished file, on the file system of `path`.
        path: Its final path.
        companions: Files that `draft` refers to by name. They keep their names and move to the folder of `path`.
    """
    for companion in companions:
        companion.replace(path.parent / companion.name)
    draft.replace(path)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` and flush it to the disk.

    Args:
        path: A file in an existing folder; an old file of this name is replaced.
        content: The content of the file.

    Raises:
        OSError: The file cannot be written; an old file is unchanged.
    """
    with atomic_path(path) as draft, draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8.

    Args:
        path: As for `write_bytes`.
        text: The content of the file.

    Raises:
        OSError: As for `write_bytes`.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write `value` to `path` as strict, indented JSON with its keys in their order.

    Args:
        path: As for `write_bytes`.
        value: An object that JSON can represent.

    Raises:
        ValueError: `value` contains NaN or an infinity.
        TypeError: `value` contains an object that JSON cannot represent.
        OSError: As for `write_bytes`.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
