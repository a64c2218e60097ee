"""Run a user's own Python file: make its neighbours importable, find its functions, and report what it raises."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from compressor.errors import CompressorError, did_you_mean
from compressor.listed import listed

T = TypeVar("T")
NAMED = 8  # functions and classes that an error names


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
        raise error(code, line or place, problem, _next_step(fault, file)) from fault


def user_items(items: Iterable[T], error: type[CompressorError], code: str, place: str) -> Iterator[T]:
    """Yield the items of a user's iterable; only what it raises itself is reported as the user's.

    Args:
        items: The iterable.
        error: The class to raise.
        code: Its code.
        place: Its place; of `file.py:factory` the line that raised, where it is known.

    Returns:
        The items.

    Raises:
        CompressorError: As of `user_errors_as`.
    """
    name = place.partition(".py:")[0]
    file = Path(f"{name}.py") if name != place else None
    with user_errors_as(error, code, place, file):
        iterator = iter(items)
    while True:
        with user_errors_as(error, code, place, file):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def find_callable(
    code: ModuleType, path: Path, name: str, error: type[CompressorError], error_code: str
) -> Callable[..., Any]:
    """Find a function or class of a user's file.

    Args:
        code: The imported file.
        path: Its path.
        name: The name of the function or class.
        error: The class to raise.
        error_code: Its code.

    Returns:
        The function or class.

    Raises:
        CompressorError: Of class `error`, with the names that the file defines, if it has none of that name.
    """
    value: Any = getattr(code, name, None) if name else None
    if callable(value):
        return value  # type: ignore[no-any-return]
    own = [
        own_name
        for own_name, value in vars(code).items()
        if callable(value) and not own_name.startswith("_") and getattr(value, "__module__", None) == code.__name__
    ]
    names = f"{did_you_mean(name, own)}use one of {listed(own, NAMED)}"
    hint = names if own else "define such a function in it"
    raise error(error_code, f"{path}:{name}", "the file defines no such callable", hint)


def _next_step(fault: BaseException, file: Path | None) -> str:
    if file and (hiding := _hides_package(fault, file)):
        return f"rename {hiding.name}, which Python imports in place of the installed {hiding.stem}"
    if isinstance(fault, ModuleNotFoundError) and fault.name:
        return f"install {fault.name.partition('.')[0]}, or correct the import"
    if isinstance(fault, ImportError):
        return "install a version that has it, or correct the import"
    return "correct the code, or run it alone for the full traceback"


def _hides_package(fault: BaseException, file: Path) -> Path | None:
    """Return the file beside the user's that is imported under the name of an installed package, or None."""
    name = fault.name if isinstance(fault, ImportError) else None
    if isinstance(fault, AttributeError) and isinstance(fault.obj, ModuleType):
        name = fault.obj.__name__
    hiding = file.resolve().with_name(f"{(name or '').partition('.')[0]}.py")
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != hiding.parent]
    return hiding if hiding.is_file() and PathFinder.find_spec(hiding.stem, elsewhere) else None


def _line(file: Path, fault: BaseException) -> str | None:
    """Return `file:line` for the last line of the file that took part in the failure, or None."""
    frames = traceback.extract_tb(fault.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    if isinstance(fault, SyntaxError) and fault.lineno:
        lines.append(fault.lineno)
    return f"{file}:{lines[-1]}" if lines else None
