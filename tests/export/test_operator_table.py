"""torch's exporter lists its operators once, and finds everything as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter import _registration

from compressor.export.operator_table import operators_listed_once


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
