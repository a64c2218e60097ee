"""`int()` of sizes, which a trace keeps as a formula.

`int(windows.shape[0] / (h * w / 64))` is how Swin and its followers compute the batch. torch.export takes the number of
its example for it, because Python lets `int()` return nothing but a number. `math.trunc` of the same is a formula.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class _IntOrFormula(type):
    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        is_formula = len(arguments) == 1 and isinstance(arguments[0], torch.SymFloat)
        return math.trunc(arguments[0]) if is_formula else int(*arguments, **keywords)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, int)


class _Int(metaclass=_IntOrFormula):
    """What takes the place of `int` in the code of a network."""


@contextlib.contextmanager
def sizes_as_formulas(module: nn.Module) -> Iterator[None]:
    """Within, the files that define the forwards of a module see another `int`; those of torch are left out.

    Code that needs `int` itself, such as `dtype=int`, fails meanwhile.

    Args:
        module: The module.
    """
    forwards = (inspect.unwrap(type(part).forward) for part in module.modules())
    scopes = {id(scope): scope for scope in (getattr(forward, "__globals__", {}) for forward in forwards)}
    own = [
        scope
        for scope in scopes.values()
        if "int" not in scope and not str(scope.get("__name__", "torch")).startswith("torch")
    ]
    for scope in own:
        scope["int"] = _Int
    try:
        yield
    finally:
        for scope in own:
            del scope["int"]
