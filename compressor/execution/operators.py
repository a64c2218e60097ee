"""Calls of PyTorch's operators, as dispatch modes see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def named_arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call by the operator's schema.

    Args:
        func: The operator overload.
        args: Positional arguments.
        kwargs: Named arguments.

    Returns:
        The arguments, with defaults filled in.
    """
    schema = func._schema.arguments
    named = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    named |= {argument.name: value for argument, value in zip(schema, args, strict=False)}
    return named | dict(kwargs)
