"""Whatever ends a run early, as the lines to print and the exit code. One place, so that no verb needs its own."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from pathlib import Path

import click

from compressor.errors import CompressorError, did_you_mean, is_out_of_memory

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; every `with` and `finally` on the way out runs, and who catches exceptions lets it through."""


@dataclass(frozen=True, slots=True)
class ExitReport:
    lines: tuple[str, ...]
    exit_code: int


def exit_report(error: BaseException, out: Path | None = None) -> ExitReport:
    """What to say of `error` and how to exit; `out` is the folder that was being made, when one was."""
    again = "the same command with --resume goes on from here" if out else "run it again"
    where = str(out) if out else "run"
    match error:
        case CompressorError():
            return ExitReport(error.lines, error.exit_code)
        case click.UsageError():
            return ExitReport((_usage(error),), 2)
        case Terminated():
            return ExitReport((f"interrupted: {where}: SIGTERM; {again}",), 143)
        case KeyboardInterrupt() | click.exceptions.Abort():
            return ExitReport((f"interrupted: {where}: Ctrl-C; {again}",), 130)
        case BrokenPipeError():
            return ExitReport((), 141)  # what a shell reports for a program whose reader has left
        case _ if _is_full(error):
            place = getattr(error, "filename", None) or where
            return ExitReport((f"disk full: {place}: no space left; free some, then {again}",), 75)
        case _ if is_out_of_memory(error):
            todo = f"free some memory or lower retrain.batch_size, then {again}"
            return ExitReport((f"out of memory: {where}: {_first_line(error)}; {todo}",), 75)
        case OSError(filename=str() as name) if error.errno in _UNUSABLE or _is_inside(name, out):
            ours = _is_inside(name, out)
            todo = "choose another place with --out" if ours else "check the path and its permissions"
            return ExitReport((f"{'output' if ours else 'file'}: {name}: {error.strerror}; {todo}",), 2)
        case _:
            todo = "this is a bug of ours, run again with --debug and report what it prints"
            return ExitReport((f"internal error: {_origin(error)}: {_first_line(error)}; {todo}",), 1)


def one_line(text: str) -> str:
    """`text` without line breaks and control characters: names in it may come from files nobody vouches for."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "compress"
    hint = f"see {command} --help"
    match error:
        case click.NoSuchOption():
            known = [name for each in error.ctx.command.params for name in each.opts] if error.ctx else []
            found = f"no such option {error.option_name}"
            hint = did_you_mean(error.option_name, [*known, "--help"]) + hint
        case click.MissingParameter(param=click.Parameter() as parameter):
            names = [name for name in parameter.opts if name.startswith("-")]
            found = f"{max(names, key=len) if names else parameter.human_readable_name} is missing"
        case _:
            found = error.format_message().rstrip(".")
    return f"usage: {command}: {found}; {hint}"


def _is_full(error: BaseException) -> bool:
    """Also where a library kept only the words of the operating system's error."""
    return (isinstance(error, OSError) and error.errno in _FULL) or "No space left on device" in str(error)


def _is_inside(name: str, out: Path | None) -> bool:
    """Whether a path is on the way to the output folder, in it, or in the one of like name where it is put together."""
    if out is None:
        return False
    path, folder = Path(name).absolute(), out.absolute()
    beside = path.is_relative_to(folder.parent) and path != folder.parent
    return folder.is_relative_to(path) or (beside and folder.name in path.relative_to(folder.parent).parts[0])


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:200]}".strip()


def _origin(error: BaseException) -> str:
    """File and line of the last of our own frames."""
    package = Path(__file__).parents[1]
    ours = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(package)
    ]
    return f"{Path(ours[-1].filename).relative_to(package.parent)}:{ours[-1].lineno}" if ours else "compress"
