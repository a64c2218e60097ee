"""The output folder: assembled beside its final place, renamed when it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import RecipeError, Temporary

CHECKPOINTS = ".training"
"""Name of the folder in the folder that trainings leave their state in."""

JOURNAL = "run.jsonl"
_LOCK = ".lock"


def check_output_free(out: Path, *, force: bool, inputs: Iterable[str] = ()) -> None:
    """Raises RecipeError where `out` exists and may not be replaced: without `force`, or with more in it than a result.

    `inputs`: what the run reads; paths of files and folders, or anything else.
    """
    if not os.path.lexists(out):
        return
    if not force:
        raise RecipeError("output/exists", str(out), "it exists", "choose another --out, or replace it with --force")
    place = out.resolve()
    held = [each for each in inputs if place in Path(each).resolve().parents and Path(each).exists()]
    found = None
    if place in (Path.cwd(), *Path.cwd().parents):
        found = "it is the current folder, or a parent of it"
    elif out.is_mount():
        found = "it is a mount point, which cannot be replaced"
    elif held:
        found = f"it holds {held[0]}, which --force would delete"
    if found:
        raise RecipeError(
            "output/not-replaceable", str(out), found, "choose another --out, such as a new folder inside it"
        )


@contextmanager
def staged_output(out: Path, *, force: bool, resume: bool) -> Iterator[Path]:
    """A folder to write into; it becomes `out` when the block ends well.

    Whatever ends a run after training has begun leaves it (hidden, beside `out`) for `--resume`: hours of work outlive
    a full disk and an unreachable device. Before, there is nothing to go on from, and nothing is left.

    Raises:
        RecipeError: `out` exists and `force` is not given, or its place can't be written to.
        Temporary: another run is writing there.
    """
    check_output_free(out, force=force)
    out = out.absolute()
    draft = out.with_name(f".{out.name}.partial")
    with _locked(draft, out):
        _clear(draft, spare={_LOCK, CHECKPOINTS, JOURNAL} if resume else {_LOCK})
        try:
            yield draft
        except BaseException:
            if not (draft / CHECKPOINTS).exists():
                shutil.rmtree(draft, ignore_errors=True)
            raise
        check_output_free(out, force=force)  # it may have appeared since
        (draft / _LOCK).unlink()
        _publish(draft, out)


@contextmanager
def _locked(draft: Path, out: Path) -> Iterator[None]:
    """`draft` exists and is this process's alone."""
    lock = _open_lock(draft)
    try:
        if not _take(lock, draft):
            problem = "another run is writing to it"
            raise Temporary("output/locked", str(out), problem, "wait until it ends, or choose another --out")
        yield
    finally:
        os.close(lock)


def _open_lock(draft: Path) -> int:
    try:
        draft.mkdir(parents=True, exist_ok=True)
        if draft.is_symlink():  # of whoever may write here: what it leads to is not ours to clear
            raise FileExistsError(errno.EEXIST, "a link", str(draft))
        return os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = f"it cannot be written ({os.strerror(error.errno or 0).lower()})"
        where = str(error.filename or draft)
        raise RecipeError("output/not-writable", where, problem, "choose another --out") from error


def _take(lock: int, draft: Path) -> bool:
    """Whether the lock is ours, and still that of `draft`: a run that just ended has moved it away."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), os.stat(draft / _LOCK))
    except (BlockingIOError, FileNotFoundError):
        return False


def _clear(draft: Path, spare: Set[str]) -> None:
    """Remove what an earlier run left, but for what this one goes on from."""
    for each in draft.iterdir():
        if each.name not in spare:
            _remove(each)


def _publish(draft: Path, out: Path) -> None:
    """Give the folder its name; one it replaces is deleted only once the new one is in its place."""
    old = out.with_name(f".{out.name}.replaced")
    _remove(old)
    if os.path.lexists(out):
        out.rename(old)
    draft.rename(out)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
