"""Replaces functions of torch and onnxscript for the time of an export, where they have no setting for it."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def replaced(module: str, path: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace an attribute within. Where a version of the library lacks a name, nothing is replaced.

    Args:
        module: The module that holds it.
        path: Its names from the module on, separated by dots.
        make: The attribute -> what takes its place.
    """
    *owners, name = path.split(".")
    try:
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        before = getattr(owner, name)
        within = make(before)
    except (ImportError, AttributeError):
        yield
        return
    setattr(owner, name, within)
    try:
        yield
    finally:
        setattr(owner, name, before)
