"""The operators that torch's ONNX exporter knows, listed once for all exports of a process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def operators_listed_once() -> Iterator[None]:
    """Within, `torch.onnx.export` takes the list of operators that the first export made.

    It asks onnxscript for this list at every call, and onnxscript parses the source of 500 functions to make it: a
    quarter of the time that a small network takes. The list never changes. torch documents no place to set it; where a
    version has none of these names, nothing is replaced.
    """
    try:
        from torch.onnx._internal.exporter._registration import onnxscript_apis

        list_operators = onnxscript_apis.get_torchlib_ops
    except (ImportError, AttributeError):
        yield
        return
    onnxscript_apis.get_torchlib_ops = lambda: _result(list_operators)
    try:
        yield
    finally:
        onnxscript_apis.get_torchlib_ops = list_operators


@functools.cache
def _result(function: Callable[[], list[object]]) -> list[object]:
    return function()
