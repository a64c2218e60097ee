"""Work that torch's ONNX exporter repeats, left out for the time of an export: its result is the same.

Neither torch nor onnxscript documents a setting for it. Where a version has none of the names below, nothing is
replaced.
"""

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
    quarter of the time that a small network takes. The list never changes.
    """
    try:
        source: Any = importlib.import_module("torch.onnx._internal.exporter._registration").onnxscript_apis
        list_operators = source.get_torchlib_ops
    except (ImportError, AttributeError):
        yield
        return
    with replaced(source, "get_torchlib_ops", lambda: _result(list_operators)):
        yield


@contextlib.contextmanager
def pairs_matched_by_first() -> Iterator[None]:
    """Within, onnxscript's optimizer looks for the second node of a pair only where the first one matches.

    By itself it tries every node of the graph with every Slice: two thirds of the time that a network of 1,000 nodes
    and 300 Slices takes.
    """
    try:
        matcher: Any = importlib.import_module("onnxscript.rewriter._matcher").SimplePatternMatcher
        no_match = importlib.import_module("onnxscript.rewriter").MatchResult
        match_all = matcher.match
    except (ImportError, AttributeError):
        yield
        return

    def _match(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        nodes = self.pattern.output_nodes
        if len(nodes) > 1 and nodes[0].op_identifier() not in (None, node.op_identifier()):
            return no_match().fail("the first node has another operator")
        return match_all(self, model, graph, node, **options)

    with replaced(matcher, "match", _match):
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Give an object another attribute within.

    Args:
        owner: The object.
        name: The attribute.
        value: Its value within.
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@functools.cache
def _result(function: Callable[[], list[object]]) -> list[object]:
    return function()
