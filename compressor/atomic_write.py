"""Files that are never half-written: each is written beside its place and renamed once it is complete."""

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
        draft: the finished file, on the file system of `path`.
        path: its final place.
        companions: files that `draft` refers to by name; they keep their names and move to the folder of `path`.
    """
    for companion in companions:
        companion.replace(path.parent / companion.name)
    draft.replace(path)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` and flush it to the disk.

    Args:
        path: a file in a folder that exists; an old file of this name is replaced.
        content: everything the file will hold.

    Raises:
        OSError: the file can't be written; an old file is unchanged.
    """
    with atomic_path(path) as draft, draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8.

    Args:
        path: as for `write_bytes`.
        text: everything the file will hold.

    Raises:
        OSError: as for `write_bytes`.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write `value` to `path` as strict, indented JSON with its keys in the order given.

    Args:
        path: as for `write_bytes`.
        value: an object that JSON has a form for.

    Raises:
        ValueError: `value` holds NaN or an infinity.
        TypeError: `value` holds what JSON has no form for.
        OSError: as for `write_bytes`.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
