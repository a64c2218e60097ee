"""Channels that a Pad of an ONNX file adds: they are in the module's groups, and the slim file has smaller pads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_models import export, prunable
from torch import Tensor, nn
from torch.nn import functional

from compressor.core import PrunePlan
from compressor.models.cifar import CifarResNet
from compressor.models.onnx_import.padding import as_padding, as_pads
from compressor.models.onnx_import.write_back import write_module
from compressor.models.source import load_model
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import remove_channels


class Shortcut(nn.Module):
    """A shortcut of option A: four channels, of which every second pixel is taken, get one before and two after."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 7, 3, 2, 1)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = self.b(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        return self.head(x.relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("pads", "axes", "rank", "padding"),
    [
        ([0, 4, 0, 0, 0, 5, 0, 0], [0, 1, 2, 3], 4, (0, 0, 0, 0, 4, 5)),
        ([0, 0, 1, 2, 0, 0, 3, 4], [0, 1, 2, 3], 4, (2, 4, 1, 3)),
        ([1, 3], [1], 4, (0, 0, 0, 0, 1, 3)),
        ([7, 5, 8, 6], [3, 2], 4, (7, 8, 5, 6)),
        ([0] * 6, [0, 1, 2], 3, ()),
    ],
)
def test_both_orders(pads: list[int], axes: list[int], rank: int, padding: tuple[int, ...]) -> None:
    assert as_padding(pads, axes, rank) == padding
    assert as_pads(padding, axes, rank) == pads


@pytest.mark.parametrize("opset", [10, 11, 17])
def test_removed_channels_leave_the_pads(opset: int, tmp_path: Path) -> None:
    """Of channels 0 | 1 2 3 4 | 5 6, the first, third and last are removed: none before and one after is left."""
    torch.manual_seed(0)
    path = export(Shortcut(), (3, 8, 8), tmp_path / "m.onnx", opset=opset)
    x = torch.randn(2, 3, 8, 8)
    module = load_model(str(path)).module
    graph = analyze(module, x[:1], name="it")
    kept = {"a": np.array([True, False, True, True]), "b": np.array([False, True, False])}
    assert {group.name: group.size for group in graph.groups if group.frozen is None} == {"a": 4, "b": 3}
    slim = remove_channels(module, graph, PrunePlan(kept))
    model = write_module(slim, path, [x], {})
    (pad,) = (node for node in model.graph.node if node.op_type == "Pad")
    tensors = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    attributes = {one.name: helper.get_attribute_value(one) for one in pad.attribute}
    pads = attributes["pads"] if opset < 11 else tensors[pad.input[1]]
    assert pads == [0, 0, 0, 0, 0, 1, 0, 0]
    with torch.no_grad():
        expected = slim(x).numpy()
    answer = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"pixels": x.numpy()})[0]
    assert np.allclose(answer, expected, atol=1e-5)


def test_groups_of_a_resnet_with_option_a_are_the_module_s(tmp_path: Path) -> None:
    module = CifarResNet(1, 1, projected=False, num_classes=4, in_channels=3)
    path = export(module, (3, 16, 16), tmp_path / "m.onnx", opset=13)
    x = torch.randn(1, 3, 16, 16)
    assert prunable(load_model(str(path)).module, x) == prunable(module, x)
