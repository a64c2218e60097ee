"""What a model answers or a data set asks for: a tensor, or tuples, lists and dictionaries of such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with every tensor in it changed; what is none of these stays."""
    match value:
        case Tensor():
            return change(value)
        case dict():
            return {key: mapped(change, each) for key, each in value.items()}
        case tuple() if hasattr(value, "_fields"):  # a named one
            return type(value)(*(mapped(change, each) for each in value))
        case tuple() | list():
            return type(value)(mapped(change, each) for each in value)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in `value`, in order."""
    match value:
        case Tensor():
            yield value
        case dict():
            yield from tensors(list(value.values()))
        case tuple() | list():
            for each in value:
                yield from tensors(each)


def in_float32(value: Any) -> Any:
    """Floating-point tensors as float32: losses and metrics are not computed in reduced precision."""
    return mapped(lambda each: each.float() if each.is_floating_point() else each, value)
