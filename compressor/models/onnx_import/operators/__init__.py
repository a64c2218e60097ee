"""Operators without weights. Each module here defines some, in its constant OPERATORS."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from compressor.models.onnx_import.imported_module import Function


@cache
def operators() -> dict[str, Function]:
    """Return the function of every operator of ONNX's own domain that is implemented."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {op: function for module in modules for op, function in module.OPERATORS.items()}
