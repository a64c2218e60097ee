"""The operators that torch's ONNX exporter knows, listed once for all exports of a process."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def operators_listed_once() -> Iterator[None]:
    """Within, `torch.onnx.export` takes the list of operators that the first export made.

    It asks onnxscript for this list at every call, and onnxscript parses the source of 500 functions to make it: a
    quarter of the time that a small network takes. The list never changes. torch documents no place to set it; where a
    version has none of these names, nothing is replaced.
    """
    try:
        source: Any = importlib.import_module("torch.onnx._internal.exporter._registration").onnxscript_apis
        list_operators = source.get_torchlib_ops
    except (ImportError, AttributeError):
        yield
        return
    source.get_torchlib_ops = lambda: _result(list_operators)
    try:
        yield
    finally:
        source.get_torchlib_ops = list_operators


@functools.cache
def _result(function: Callable[[], list[object]]) -> list[object]:
    return function()
