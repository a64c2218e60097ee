"""ONNX files in float16: the module computes in float32, and what comes out is in float16 as the given file is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx_models import export
from onnxruntime.transformers.float16 import convert_float_to_float16  # type: ignore[import-untyped]
from torch import Tensor, nn

import compressor
from compressor import cli
from compressor.export.tolerance import FLOAT16_FILE, FLOAT32_FILE, compare_outputs


class Layers(nn.Module):
    """A convolution whose channels three kinds of layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.conv3 = nn.Conv2d(32, 32, 3, stride=2)
        self.norm = nn.LayerNorm(32)
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.conv1(x).relu()).sigmoid()).relu().mean((2, 3))
        return self.fc2(self.fc1(self.norm(x)).relu())


@pytest.mark.parametrize("keep_io", [True, False], ids=["float32 inputs", "float16 inputs"])
def test_a_float16_file_is_given_back_as_one(keep_io: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = onnx.load(export(Layers(), (3, 16, 16), tmp_path / "float32.onnx"))
    given = convert_float_to_float16(given, keep_io_types=keep_io)
    onnx.save(given, tmp_path / "net.onnx")
    out, again = tmp_path / "out", tmp_path / "again"
    settings = ["-r", "l1", "--target", "none", "-q", "--set"]
    assert cli.run([str(tmp_path / "net.onnx"), *settings, "prune.target={macs: 50%}", "-o", str(out)]) == 0
    slim = onnx.load(out / "model.onnx")
    assert (slim.graph.input[0], slim.graph.output[0]) == (given.graph.input[0], given.graph.output[0])
    weights = [tensor for tensor in slim.graph.initializer if len(tensor.dims) > 1]
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
    report = json.loads((out / "report.json").read_text())
    assert report["certificate"]["ok"]
    assert report["ratios"]["macs"] >= 2
    module = compressor.load(out)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32 if keep_io else np.float16)
    (answers,) = onnxruntime.InferenceSession(out / "model.onnx").run(None, {"pixels": x})
    with torch.no_grad():
        expected = module(torch.from_numpy(x.astype(np.float32))).numpy()
    assert np.abs(answers - expected).max() < 0.01 * np.abs(expected).max()
    assert cli.run(["verify", str(out), "-q"]) == 0
    assert cli.run([str(out), *settings, "prune.target={size: 40%}", "-o", str(again)]) == 0
    assert cli.run(["verify", str(again), "-q"]) == 0


def test_a_float16_file_may_differ_by_a_hundredth() -> None:
    """Of the largest value 4: 0.03 is allowed in float16 and not in float32, 0.3 in neither."""
    reference = [np.array([4.0, -1.0], np.float32)]

    def ok(difference: float, rounding: object) -> bool:
        actual = [reference[0] + np.float32(difference)]
        expected = SimpleNamespace(rounding=rounding, outputs=reference, in_float64=[], in_noise=[])
        return compare_outputs(actual, expected, ["y"]).ok

    assert ok(0.03, FLOAT16_FILE)
    assert not ok(0.03, FLOAT32_FILE)
    assert not ok(0.3, FLOAT16_FILE)
