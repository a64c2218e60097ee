"""Forms of one network are exported from one trace, and each file agrees with its module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import compressor.export.onnx as export
from compressor.core import PrunePlan
from compressor.export.onnx import OnnxExporter
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import remove_channels


class Mobile(nn.Module):
    """A depthwise block, a transposed convolution, BatchNorm, and a flatten in front of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.fc1, self.fc2 = nn.Linear(8 * 4, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.depthwise(self.stem(x)).relu())
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.fc2(self.fc1(x).relu())


class Shuffled(nn.Module):
    """Code that computes a size from a width: the channels are halved by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        b, c, h, w = x.shape
        return self.conv2(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)).mean((2, 3))


class Normalized(nn.Module):
    """Code with constant tensors of its own, which are no tensors of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, scale = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([1.0, 2.0, 4.0])
        return self.conv2(self.conv1((x - mean[:, None, None]) * scale[:, None, None]).relu()).mean((2, 3))


def half_of(module: nn.Module, x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    graph = analyze(module, x, name="it")
    free = [group for group in graph.groups if group.frozen is None]
    assert free
    return remove_channels(module, graph, PrunePlan({group.name: np.arange(group.size) % 2 == 0 for group in free}))


def count_traces(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    traced: list[nn.Module] = []
    trace = export.trace_by_dynamo

    def counting(module: nn.Module, *arguments: object) -> object:
        traced.append(module)
        return trace(module, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "trace_by_dynamo", counting)
    return traced


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("module", "traces"),
    [(Mobile(), 1), (Normalized(), 1), (Shuffled(), 2)],
    ids=["widths alone", "constants in the code", "computed sizes"],
)
def test_the_pruned_network_takes_the_trace_where_it_can(
    module: nn.Module, traces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(4, 3, 16, 16)
    slim = half_of(module.eval(), x[:1])
    alone = OnnxExporter([x], opset=None, dynamic_batch=True).export(slim, tmp_path / "alone.onnx")
    traced = count_traces(monkeypatch)
    exporter = OnnxExporter([x], opset=None, dynamic_batch=True, metadata={"recipe": "abc"})
    assert exporter.export(module, tmp_path / "dense.onnx").ok
    again = exporter.export(slim, tmp_path / "slim.onnx")
    assert len(traced) == traces
    assert (again.ok, again.opset, again.notes) == (True, alone.opset, alone.notes)
    assert operators(again.path) == operators(alone.path)
    one, other = (onnx.load(path).graph for path in (again.path, alone.path))
    assert (list(one.input), list(one.output)) == (list(other.input), list(other.output))
    sizes = [sorted(tuple(tensor.dims) for tensor in graph.initializer if tensor.dims) for graph in (one, other)]
    assert sizes[0] == sizes[1]


def test_another_network_is_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal shapes, but the second has a bias that the first has not: its trace has no place for it."""
    traced = count_traces(monkeypatch)
    exporter = OnnxExporter([torch.randn(4, 3, 8, 8)], opset=None, dynamic_batch=True)
    for number, bias in enumerate((False, True)):
        module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.ReLU()).eval()
        assert exporter.export(module, tmp_path / f"{number}.onnx").ok
    assert len(traced) == 2


def test_a_width_that_the_file_computes_wrongly_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph runs at the new width, and divides by the old one: the answers differ, and the module is traced."""

    class Scaled(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x.sum(1) / x.shape[1]

    traced = count_traces(monkeypatch)
    exporter = OnnxExporter([torch.randn(4, 3, 4, 4)], opset=None, dynamic_batch=True)
    for width in (8, 6, 4):
        assert exporter.export(Scaled(width).eval(), tmp_path / f"{width}.onnx").ok
    assert len(traced) == 3  # one for each: after the second, traces are not tried any more
