"""Work that torch's ONNX exporter repeats, left out for the time of an export: its result is the same."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from compressor.export.replaced import replaced


def operators_listed_once() -> AbstractContextManager[None]:
    """Within, `torch.onnx.export` takes the list of operators that the first export made.

    It asks onnxscript for this list at every call, and onnxscript parses the source of 500 functions to make it: a
    quarter of the time that a small network takes. The list never changes.
    """
    return replaced(
        "torch.onnx._internal.exporter._registration",
        "onnxscript_apis.get_torchlib_ops",
        lambda list_operators: lambda: _result(list_operators),
    )


def pairs_matched_by_first() -> AbstractContextManager[None]:
    """Within, onnxscript's optimizer looks for the second node of a pair only where the first one matches.

    By itself it tries every node of the graph with every Slice: two thirds of the time that a network of 1,000 nodes
    and 300 Slices takes.
    """
    return replaced("onnxscript.rewriter._matcher", "SimplePatternMatcher.match", _first_compared)


def _first_compared(match_all: Callable[..., Any]) -> Callable[..., Any]:
    no_match = importlib.import_module("onnxscript.rewriter").MatchResult

    def _match(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        nodes = self.pattern.output_nodes
        if len(nodes) > 1 and nodes[0].op_identifier() not in (None, node.op_identifier()):
            return no_match().fail("the first node has another operator")
        return match_all(self, model, graph, node, **options)

    return _match


@functools.cache
def _result(function: Callable[[], list[object]]) -> list[object]:
    return function()
