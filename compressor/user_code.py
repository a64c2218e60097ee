"""Run a user's own Python file: make its neighbours importable, and report what it raises."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import CompressorError


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put the file's own folder first on the search path, as Python does for the file that it runs.

    `import utils` then finds the file beside it, not a module of that name from another folder.
    """
    entry = folder.resolve()
    neighbours = {file.stem: file for file in entry.glob("*.py") if file.stem in sys.modules}
    shadowing = {name: sys.modules[name] for name, file in neighbours.items() if _hides(sys.modules[name], file)}
    for name in shadowing:
        del sys.modules[name]
    sys.path.insert(0, str(entry))
    try:
        yield
    finally:
        sys.path.remove(str(entry))
        sys.modules.update(shadowing)


def _hides(module: object, own: Path) -> bool:
    """Return whether a module that is not installed was imported from another file under the name of `own`."""
    file = Path(getattr(module, "__file__", None) or own)
    installed = file.is_relative_to(sys.prefix) or file.is_relative_to(sys.base_prefix)
    return file != own and own.is_file() and not installed


@contextmanager
def user_errors_as(error: type[CompressorError], code: str, place: str, file: Path | None = None) -> Iterator[None]:
    """Raise whatever the user's code raises as an error of ours.

    Args:
        error: The class to raise.
        code: Its code.
        place: Its place, unless a line of `file` took part in the failure.
        file: The user's Python file.

    Raises:
        CompressorError: Of class `error`, if the user's code raised anything but a CompressorError or called sys.exit.
    """
    try:
        yield
    except CompressorError:
        raise
    except (Exception, SystemExit) as fault:  # a call of sys.exit too
        line = _line(file, fault) if file else None
        problem = f"it raised {type(fault).__name__}: {fault}"
        raise error(code, line or place, problem, "correct the code, or run it alone for the full traceback") from fault


def _line(file: Path, fault: BaseException) -> str | None:
    """Return `file:line` for the last line of the file that took part in the failure, or None."""
    frames = traceback.extract_tb(fault.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    if isinstance(fault, SyntaxError) and fault.lineno:
        lines.append(fault.lineno)
    return f"{file}:{lines[-1]}" if lines else None
