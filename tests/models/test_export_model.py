"""Models that go back into the ONNX file that they came from: what is written is checked, and named where it fails."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from failures import raises_error
from onnx import helper
from onnx_models import model_of

from compressor.errors import ModelError
from compressor.export.parity import CannotRun
from compressor.models import export_model
from compressor.models.export_model import model_exporter
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.source import load_model


def _refuse(draft: Path, *_: object) -> None:
    raise CannotRun("no kernel\nfor this node")


@pytest.mark.parametrize(
    ("function", "replacement", "code"),
    [
        (
            "checker_error",
            lambda path: None if path.name == "given.onnx" else "a bad node",
            "export/written-back-invalid",
        ),
        ("check_parity", _refuse, "export/written-back-does-not-agree"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_of_the_model(
    function: str, replacement: object, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"w": np.eye(4, dtype=np.float32)}
    onnx.save(model_of(helper.make_node("MatMul", ["x", "w"], ["y"]), weights=weights), tmp_path / "given.onnx")
    model = load_model(str(tmp_path / "given.onnx"))
    exporter = model_exporter(model, example_inputs(model, 3), opset=None, dynamic_batch=True)
    monkeypatch.setattr(export_model, function, replacement)
    with raises_error(ModelError, code, "slim.onnx"):
        exporter.export(copy.deepcopy(model.module), tmp_path / "slim.onnx")
    assert not (tmp_path / "slim.onnx").exists()
