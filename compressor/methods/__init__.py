"""Pruning methods. Each is a frozen record of settings with a tuple of steps; one paper is one file.

To add one: a file here with a `Method` subclass, a recipe of its name in `recipes/`, and a test. Nothing is registered.
These files are imported to check a recipe, so none of them imports torch at the top.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache

from compressor.methods.base import Method, SettingsGroup

__all__ = ["Method", "SettingsGroup", "methods"]


@cache
def methods() -> dict[str, type[Method]]:
    """Return every method by its name in recipes, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {method.name: method for method in sorted(_kinds(Method), key=lambda method: method.name)}


def _kinds(base: type[Method]) -> Iterator[type[Method]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)
