"""torch's exporter lists its operators once and matches fewer pairs, and finds everything as it was afterwards."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from onnxscript import optimizer
from onnxscript.rewriter import _matcher
from torch import nn
from torch.onnx._internal.exporter import _registration

from compressor.export.exporter_shortcuts import operators_listed_once, pairs_matched_by_first


def test_the_list_is_made_once_for_all_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    apis, calls = _registration.onnxscript_apis, []
    original = apis.get_torchlib_ops

    def counted() -> list[object]:
        calls.append("made")
        return original()

    monkeypatch.setattr(apis, "get_torchlib_ops", counted)
    for _ in range(2):
        with operators_listed_once():
            program = torch.onnx.export(nn.ReLU().eval(), (torch.ones(1),), dynamo=True, verbose=False)
        assert program is not None
        assert [node.op_type for node in program.model.graph] == ["Relu"]
    assert calls == ["made"]


def test_the_exporter_is_left_as_it_was() -> None:
    original = _registration.onnxscript_apis.get_torchlib_ops
    with operators_listed_once():
        assert _registration.onnxscript_apis.get_torchlib_ops is not original
    assert _registration.onnxscript_apis.get_torchlib_ops is original


def test_a_version_without_these_names_exports_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_registration, "onnxscript_apis")
    with operators_listed_once():
        pass


HALVES = """
<ir_version: 10, opset_import: ["" : 20]>
halves (float[2, 8] x) => (float[2, 4] y)
<int64[1] begin = {0}, int64[1] half = {4}, int64[1] end = {8}, int64[1] axis = {1}>
{
    a = Relu(x)
    high = Slice(a, half, end, axis)
    low = Slice(a, begin, half, axis)
    scaled = Sigmoid(low)
    y = Mul(scaled, high)
}
"""


def test_pairs_are_looked_for_where_the_first_node_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Slices of one tensor become a Split, with and without the shortcut, which tries fewer pairs."""
    tried: list[tuple[str, ...]] = []
    match_pair = _matcher.SimplePatternMatcher._multi_match

    def counted(self: object, nodes: tuple[ir.Node, ...], **options: bool) -> object:
        tried.append(tuple(node.op_type for node in nodes))
        return match_pair(self, nodes, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(_matcher.SimplePatternMatcher, "_multi_match", counted)
    as_ever, quick = (ir.from_onnx_text(HALVES) for _ in range(2))
    optimizer.optimize_ir(as_ever)
    all_tried, before = len(tried), _matcher.SimplePatternMatcher.match
    tried.clear()
    with pairs_matched_by_first():
        optimizer.optimize_ir(quick)
    assert set(tried) == {("Slice", "Slice")}
    assert len(tried) < all_tried
    assert _matcher.SimplePatternMatcher.match is before
    assert [node.op_type for node in quick.graph] == ["Relu", "Split", "Sigmoid", "Mul"]
    assert ir.to_proto(quick) == ir.to_proto(as_ever)
    onnx.checker.check_model(ir.to_proto(quick))
