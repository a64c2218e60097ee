"""The output folder: assembled beside its final place, renamed when it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import CompressorError, RecipeError, Temporary

CHECKPOINT = ".training"
"""Name of the file in the folder that training leaves its state in, epoch by epoch."""


@contextmanager
def assembled(out: Path, *, force: bool, resume: bool) -> Iterator[Path]:
    """A folder to write into; it becomes `out` when the block ends well.

    An interrupted run leaves it (hidden, beside `out`) for `--resume`, and so does one that failed after training had
    begun: hours of work outlive an unreachable device. Any other error removes it.

    Raises:
        RecipeError: `out` exists and `force` is not given, or its place can't be written to.
        Temporary: another run is writing there.
    """
    out = out.absolute()
    if out.exists() and not force:
        raise RecipeError("output", str(out), "already exists", "choose another --out, or --force to replace it")
    draft = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if draft.exists() and not resume:
            _locked_remove(draft)
        draft.mkdir(exist_ok=True)
        lock = os.open(draft / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        found = f"can't be written ({os.strerror(error.errno or 0).lower()})"
        raise RecipeError("output", str(out), found, "choose another place with --out") from error
    try:
        _take(lock, draft)
        try:
            yield draft
        except CompressorError as error:
            if error.exit_code != Temporary.exit_code and not (draft / CHECKPOINT).exists():
                shutil.rmtree(draft, ignore_errors=True)
            raise
        (draft / ".lock").unlink()
        if out.exists():
            _swap(draft, out)
        else:
            draft.rename(out)
    finally:
        os.close(lock)


def _take(lock: int, draft: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Temporary(
            "output", str(draft), "another run is writing there", "wait for it, or choose another --out"
        ) from None


def _locked_remove(draft: Path) -> None:
    """Remove what an earlier run left, unless that run is still going."""
    held = draft / ".lock"
    if held.exists():
        lock = os.open(held, os.O_RDWR)
        try:
            _take(lock, draft)
        finally:
            os.close(lock)
    shutil.rmtree(draft)


def _swap(draft: Path, out: Path) -> None:
    """Replace `out`; the old one is deleted only once the new one is in its place."""
    old = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    draft.rename(out)
    shutil.rmtree(old) if old.is_dir() else old.unlink()
