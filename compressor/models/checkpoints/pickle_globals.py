"""Names of classes and functions in a pickle, and whether they make data. None of them is imported.

Nothing depends on this for safety: no global of a pickle is ever called. It decides which files are refused because
loading them elsewhere would run a function, and which only hold objects of classes that are not read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

# Classes and functions of the standard library whose results are data.
_STANDARD_DATA = frozenset({
    "argparse.Namespace", "types.SimpleNamespace", "collections.deque", "decimal.Decimal", "fractions.Fraction",
    "uuid.UUID", "functools.partial", "builtins.getattr", "builtins.slice", "builtins.range", "builtins.object",
    "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath", "pathlib._local.WindowsPath", "copyreg._reconstructor", "copyreg.__newobj__",
})  # fmt: skip
# Functions of other packages that only put data together.
_REBUILDERS = frozenset({
    "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor", "torch.device", "torch.dtype", "torch.serialization._get_layout",
    "pandas._libs.internals._unpickle_block", "pandas.core.indexes.base._new_Index",
})  # fmt: skip
_STANDARD_MODULES = sys.stdlib_module_names | {"__builtin__", "copy_reg", "commands", "popen2"}
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # by Python 3


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function. It is not imported."""

    module: str
    qualname: str

    @property
    def name(self) -> str:
        return f"{self.module}.{self.qualname}"

    @property
    def is_data(self) -> bool:
        """Return whether calling it is known to make data, or whether its name is that of a class (PEP 8)."""
        if self.module.partition(".")[0] in _STANDARD_MODULES:
            return self.name in _STANDARD_DATA
        if self.name in _REBUILDERS or self.name.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_")):
            return True
        return all(part[:1].isupper() for part in self.qualname.lstrip("_").split("."))


def global_named(module: str, qualname: str = "?") -> Global:
    """Return a global under its name in Python 3.

    Args:
        module: The name of its module.
        qualname: Its name in the module.

    Returns:
        The name; nothing is imported.
    """
    root, dot, rest = module.partition(".")
    return Global(_RENAMED_MODULES.get(root, root) + dot + rest, qualname)
