"""The estimated size of an ONNX file against a real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exports import export_onnx
from torch import nn

from compressor.budget.memory import file_bytes
from compressor.surgery.analysis import analyze


@pytest.mark.usefixtures("quick_export")
def test_a_file_is_larger_than_its_weights_and_no_larger_than_the_estimate(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Sigmoid(), nn.Flatten(1)).eval()
    inputs = torch.randn(1, 3, 8, 8)
    structure = analyze(module, inputs, name="it")
    params = sum(parameter.numel() for parameter in module.parameters())
    file = export_onnx(module, [inputs], tmp_path / "m.onnx", opset=None, dynamic_batch=False, metadata={})
    assert 4 * params < file.bytes <= file_bytes(structure, params)
