"""Pruning methods, one a file. A method is frozen settings plus a tuple of steps; it is found, never registered.

Adding one: a file here with a `Method` subclass, a recipe of its name in `recipes/`, and a test.
These files are imported to check a recipe, so none of them imports torch at the top.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from compressor.methods.base import Method

__all__ = ["Method", "methods"]


@cache
def methods() -> dict[str, type[Method]]:
    """Every method by the name recipes use, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {method.name: method for method in sorted(Method.__subclasses__(), key=lambda each: each.name)}
