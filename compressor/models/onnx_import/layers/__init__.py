"""Layers with weights. Each module here but base.py defines some, in its constant LAYERS."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from compressor.models.onnx_import.layers.base import LayerKind


@cache
def layer_kinds() -> dict[str, LayerKind]:
    """Return what builds and writes the layer of every operator that has weights."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"]
    return {op: kind for name in names for op, kind in import_module(f"{__name__}.{name}").LAYERS.items()}
