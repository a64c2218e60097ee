"""The output folder is assembled beside its final place and renamed once it is complete.

An existing empty folder is filled instead: it may be a mount point, which nothing can be renamed over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import RecipeError, Temporary

CHECKPOINTS = ".training"
"""Folder inside the output folder that holds the checkpoints of trainings until the run is complete."""

JOURNAL, REPORT, PAGE, RECIPE = "run.jsonl", "report.json", "report.html", "recipe.yaml"
_LOCK = ".lock"
_DRAFT, _REPLACED = ".partial", ".replaced"
_ANOTHER = "choose another --out, such as a new folder"


def read_report(out: Path) -> dict[str, Any] | None:
    """Return the content of report.json if `out` is a folder that this program wrote, else None."""
    try:
        report = json.loads((out / REPORT).read_bytes())
    except (OSError, ValueError):
        return None
    ours = isinstance(report, dict) and {"version", "method"} <= report.keys() and isinstance(report.get("files"), dict)
    return report if ours else None


def check_output_free(out: Path, *, force: bool, inputs: Iterable[str] = ()) -> None:
    """Check that a run may write `out`: it does not exist, is empty, or holds an earlier run only and `force` is given.

    Args:
        out: The output folder.
        force: Whether an earlier result may be replaced.
        inputs: What the run reads; paths of files and folders, or anything else.

    Raises:
        RecipeError: `out` exists, and must not be replaced.
    """
    if not os.path.lexists(out) or _is_empty(out):
        return
    reason = _reason_to_keep(out, inputs)
    if reason and force:
        raise RecipeError("output/not-replaceable", str(out), reason, _ANOTHER)
    if not force:
        hint = _ANOTHER if reason else "choose another --out, or replace it with --force"
        raise RecipeError("output/exists", str(out), reason or "it exists, and holds an earlier run", hint)


def _is_empty(out: Path) -> bool:
    """Whether `out` is a folder that holds nothing but our draft, and what a fresh ext4 volume holds."""
    return out.is_dir() and {path.name for path in out.iterdir()} <= {_DRAFT, "lost+found"}


def _reason_to_keep(out: Path, inputs: Iterable[str]) -> str | None:
    """Say why not even `--force` may replace `out`; None if it may."""
    resolved, current = out.resolve(), Path.cwd()
    if resolved in (current, *current.parents):
        return "it is the current folder, or a parent of it"
    if not out.is_dir():
        return "it is not a folder"
    if out.is_mount():
        return "it is a mount point, which cannot be replaced unless it is empty"
    contained = [path for path in inputs if resolved in Path(path).resolve().parents and Path(path).exists()]
    if contained:
        return f"it holds {contained[0]}, which --force would delete"
    if read_report(out) is None:
        return f"it was not written by compress: it has no {REPORT} of a run"
    return None


def _hidden(out: Path, suffix: str) -> Path:
    """A folder beside the output folder."""
    return out.with_name(f".{out.name}{suffix}")


def is_written_by_run(path: Path, out: Path) -> bool:
    """Whether a run into `out` writes a path: the folder, what lies in it or in those beside it, and what is above it.

    Args:
        path: Any path.
        out: The output folder.

    Returns:
        True for these paths.
    """
    path, out = path.absolute(), out.absolute()
    folders = (out, _hidden(out, _DRAFT), _hidden(out, _REPLACED))
    return out.is_relative_to(path) or any(path.is_relative_to(folder) for folder in folders)


@contextmanager
def staged_output(out: Path, *, force: bool, resume: bool) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `out` if the block succeeds.

    If the block fails after training has begun, the folder remains, hidden, for `--resume`: hours of work outlive a
    full disk and an unreachable device. If it fails earlier, nothing remains.

    Args:
        out: The output folder.
        force: Whether an earlier result may be replaced.
        resume: Whether to continue from the log and the checkpoints of an interrupted run.

    Raises:
        RecipeError: `out` must not be replaced, or cannot be written.
        Temporary: Another run is writing to it.
    """
    check_output_free(out, force=force)
    out = out.absolute()
    draft = out / _DRAFT if _is_empty(out) else _hidden(out, _DRAFT)
    with _locked(draft, out):
        _clear(draft, keep={_LOCK, CHECKPOINTS, JOURNAL} if resume else {_LOCK})
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
    """Create `draft` and hold its lock."""
    lock = _open_lock(draft)
    try:
        if not _try_lock(lock, draft):
            problem = "another run is writing to it"
            raise Temporary("output/locked", str(out), problem, "wait until it ends, or choose another --out")
        yield
    finally:
        os.close(lock)


def _open_lock(draft: Path) -> int:
    try:
        draft.mkdir(parents=True, exist_ok=True)
        if draft.is_symlink():  # anyone who may write here can have made it: never clear what it leads to
            raise FileExistsError(errno.EEXIST, "a link", str(draft))
        return os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = f"it cannot be written ({os.strerror(error.errno or 0).lower()})"
        raise RecipeError(
            "output/not-writable", str(error.filename or draft), problem, "choose another --out"
        ) from error


def _try_lock(lock: int, draft: Path) -> bool:
    """Take the lock; False where another process holds it, or has just renamed the folder it lay in."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), os.stat(draft / _LOCK))
    except (BlockingIOError, FileNotFoundError):
        return False


def _clear(draft: Path, keep: Set[str]) -> None:
    """Remove what an earlier run left, except for these names."""
    for path in draft.iterdir():
        if path.name not in keep:
            _remove(path)


def _publish(draft: Path, out: Path) -> None:
    """Rename the folder, or move its files into the folder around it.

    An old folder is deleted once the new one is in its place and has the files that users added to the old one. A
    folder that is filled gets its report last, so that it looks finished at the end only.
    """
    if draft.parent == out:
        for path in sorted(draft.iterdir(), key=lambda path: path.name == REPORT):
            path.rename(out / path.name)
        draft.rmdir()
        return
    old = _hidden(out, _REPLACED)
    _remove(old)
    if os.path.lexists(out):
        out.rename(old)
    draft.rename(out)
    if not old.is_symlink():
        _carry_over(old, out)
    _remove(old)


def _carry_over(old: Path, out: Path) -> None:
    """Move the files that no run wrote, such as a pipeline's own report, and whose names the new run does not need."""
    written = (read_report(old) or {}).get("files", {}).keys() | {REPORT}
    for path in sorted(old.rglob("*")):
        name, target = path.relative_to(old).as_posix(), out / path.relative_to(old)
        if name not in written and (path.is_symlink() or not path.is_dir()) and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
