"""The folder of a user's own Python file, while the file is imported and run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
