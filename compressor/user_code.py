"""A user's own Python file, while it is imported and run: its folder, and whatever it raises."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import CompressorError


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The file's own folder first on the search path, as when python runs the file itself.

    A `utils.py` beside it is the one it means, not another that a file of another folder has imported from there.
    """
    entry = folder.resolve()
    strangers = {name: module for name, module in sys.modules.items() if _hides(module, entry / f"{name}.py")}
    for name in strangers:
        del sys.modules[name]
    sys.path.insert(0, str(entry))
    try:
        yield
    finally:
        sys.path.remove(str(entry))
        sys.modules.update(strangers)


def _hides(module: object, own: Path) -> bool:
    """Whether a module, which is not an installed one, was imported under the name of another file."""
    file = Path(getattr(module, "__file__", None) or own)
    installed = file.is_relative_to(sys.prefix) or file.is_relative_to(sys.base_prefix)
    return file != own and own.is_file() and not installed


@contextmanager
def user_errors_as(error: type[CompressorError], what: str, where: str, file: Path | None = None) -> Iterator[None]:
    """Turn what a user's code raises, which may be anything, into one line that names the line of `file`, or `where`.

    Raises `error`.
    """
    try:
        yield
    except CompressorError:
        raise
    except (Exception, SystemExit) as fault:  # a call of sys.exit too
        place = (file and _line(file, fault)) or where
        found = f"{type(fault).__name__}: {fault}"
        raise error(what, place, found, "correct the code; run it alone to see more") from fault


def _line(file: Path, fault: BaseException) -> str | None:
    """The last line of the file that took part in the failure, if any did."""
    frames = traceback.extract_tb(fault.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    if isinstance(fault, SyntaxError) and fault.lineno:
        lines.append(fault.lineno)
    return f"{file}:{lines[-1]}" if lines else None
