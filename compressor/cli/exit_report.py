"""Whatever ends a run early, as an error of ours: one place decides what to print and which exit code to use."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

import click

from compressor.errors import CompressorError, RecipeError, Temporary, did_you_mean, is_out_of_memory
from compressor.output.folder import is_written_by_run

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_UNWRITABLE = (*_UNUSABLE, errno.ENOENT, errno.EBUSY, errno.EIO)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Every `with` and `finally` on the way out runs, and no `except Exception` catches it."""


class InternalError(CompressorError):
    """A bug of ours."""

    exit_code = 1


class Interrupted(CompressorError):
    """Ctrl-C; the run can be resumed."""

    exit_code = 130


class TerminatedRun(Interrupted):
    """SIGTERM; the run can be resumed."""

    exit_code = 143


def as_compressor_error(error: BaseException, out: Path | None = None, usage_hint: str = "") -> CompressorError:
    """Return the error that says how to exit, and what to print.

    Args:
        error: Whatever was raised.
        out: The output folder that was being written, if there was one.
        usage_hint: The beginning of the hint if the command line cannot be parsed.

    Returns:
        `error` itself if it is one of ours.
    """
    again = "run the same command with --resume to continue" if out else "run it again"
    place = str(out) if out else "run"
    match error:
        case CompressorError():
            return error
        case click.UsageError():
            return _usage_error(error, usage_hint)
        case Terminated():
            return TerminatedRun("interrupted/sigterm", place, "SIGTERM was received", again)
        case KeyboardInterrupt() | click.exceptions.Abort():
            return Interrupted("interrupted/ctrl-c", place, "Ctrl-C was pressed", again)
        case _ if _is_full(error):
            file = getattr(error, "filename", None) or place
            return Temporary("disk-full/no-space", str(file), "no space is left", f"free some space, then {again}")
        case _ if is_out_of_memory(error):
            hint = f"free some memory or lower retrain.batch_size, then {again}"
            return Temporary("out-of-memory/allocation", place, _first_line(error), hint)
        case OSError(filename=str() as name) if out and _is_unwritable(error, name, out):
            return RecipeError(
                "output/not-writable", name, f"it cannot be written ({error.strerror})", "choose another --out"
            )
        case OSError(filename=str() as name) if error.errno in _UNUSABLE:
            return RecipeError("file/not-usable", name, str(error.strerror), "check the path and its permissions")
        case _:
            hint = "this is a bug in compress; run again with --debug and report the traceback"
            return InternalError("internal-error/bug", _origin(error), _first_line(error), hint)


def as_json(error: CompressorError) -> dict[str, object]:
    """Return what `--json` prints for a command that failed without a result."""
    first, *more = [
        {"code": fault.code, "place": fault.place, "problem": fault.problem, "hint": fault.hint}
        for fault in error.errors
    ]
    return {"error": {**first, "exit_code": error.exit_code, "more": more}}


def one_line(text: str) -> str:
    """Escape line breaks and control characters: names in `text` may come from files that nobody vouches for."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _usage_error(error: click.UsageError, usage_hint: str) -> RecipeError:
    command = error.ctx.command_path if error.ctx else "compress"
    hint = f"{usage_hint}see {command} --help"
    match error:
        case click.NoSuchOption():
            known = [name for option in error.ctx.command.params for name in option.opts] if error.ctx else []
            hint = f"{usage_hint}{did_you_mean(error.option_name, [*known, '--help'])}see {command} --help"
            return RecipeError("usage/unknown-option", command, f"there is no option {error.option_name}", hint)
        case click.MissingParameter(param=click.Parameter() as parameter):
            options = [name for name in parameter.opts if name.startswith("-")]
            missing = max(options, key=len) if options else parameter.human_readable_name
            return RecipeError("usage/missing-argument", command, f"{missing} is missing", hint)
        case _:
            return RecipeError("usage/invalid-argument", command, error.format_message().rstrip("."), hint)


def _is_full(error: BaseException) -> bool:
    """Return whether the disk is full, also where a library kept only the operating system's words."""
    return (isinstance(error, OSError) and error.errno in _FULL) or "No space left on device" in str(error)


def _is_unwritable(error: OSError, name: str, out: Path) -> bool:
    """Return whether the output folder, or what is written beside it until the run ends, cannot be written."""
    return error.errno in _UNWRITABLE and is_written_by_run(Path(name), out)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:200]}".strip()


def _origin(error: BaseException) -> str:
    """Return file and line of the innermost frame that is our own code."""
    package = Path(__file__).parents[1]
    ours = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(package)
    ]
    return f"{Path(ours[-1].filename).relative_to(package.parent)}:{ours[-1].lineno}" if ours else "compress"
