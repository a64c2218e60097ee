"""Inputs and outputs of files have the names that the plan says, whatever a network returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from exports import export_onnx
from torch import Tensor, nn

import compressor.export.onnx as export
from compressor.export.onnx import Attempt, OnnxExporter
from compressor.export.parity import CannotRun, check_parity
from compressor.export.tensor_names import TensorNames

X, MASK = torch.randn(4, 5, 8), torch.ones(4, 5, dtype=torch.bool)
BOTH = ("x", "mask")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)
        self.register_buffer("anchors", torch.arange(8.0))


class ReturnsInput(Layer):
    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), mask


class ReturnsOneTensorOften(Layer):
    def forward(self, x: Tensor, mask: Tensor) -> dict[str, object]:
        y = self.layer(x)
        return {"y": y, "again": y, "x": x, "more": [mask, mask, y], "twin": self.layer(x), "count": mask.sum(-1)}


class ReturnsConstants(Layer):
    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        zeros = {"zeros": torch.zeros(2), "other": torch.zeros(2)}
        return {"y": self.layer(x), "anchors": self.anchors, "bias": self.layer.bias, **zeros, "count": mask.sum(-1)}


class SwapsNames(Layer):
    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"mask": x, "x": mask, "output_x": self.layer(x)}


class TakesAnchors(Layer):
    def forward(self, x: Tensor, anchors: Tensor) -> Tensor:
        return self.layer(x) * self.anchors + anchors[..., None]


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize(
    ("module", "outputs"),
    [
        (ReturnsInput(), "output_0 output_1"),
        (ReturnsOneTensorOften(), "y again output_x more_0 more_1 more_2 twin count"),
        (ReturnsConstants(), "y anchors bias zeros other count"),
        (SwapsNames(), "output_mask output_output_x output_x"),
        (TakesAnchors(), "output"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, nn.Module) else "",
)
def test_names_are_those_of_forward(
    module: nn.Module, outputs: str, exporter: export.Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only(*_arguments: object) -> Iterator[Attempt]:
        yield Attempt(exporter, batch=True)

    monkeypatch.setattr(OnnxExporter, "_attempts", only)
    inputs = ("x", "anchors") if isinstance(module, TakesAnchors) else BOTH
    data = (X, MASK.float() if isinstance(module, TakesAnchors) else MASK)
    done = export_onnx(
        module.eval(), data, tmp_path / "m.onnx", opset=None, dynamic_batch=True, names=inputs, metadata={}
    )
    assert done.ok
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    assert tuple(node.name for node in session.get_inputs()) == inputs
    assert [node.name for node in session.get_outputs()] == outputs.split()


def test_the_second_form_of_a_network_has_the_names_too(tmp_path: Path) -> None:
    exporter = OnnxExporter((X, MASK), opset=None, dynamic_batch=True, names=BOTH)
    module = ReturnsOneTensorOften().eval()
    for name in ("first", "second"):
        exporter.export(module, tmp_path / name)
        graph = onnx.load(tmp_path / name).graph
        assert [value.name for value in graph.input] == ["x", "mask"]
        assert [value.name for value in graph.output][:3] == ["y", "again", "output_x"]
        nn.init.normal_(module.layer.weight)


@pytest.mark.parametrize("kind", ["input", "output"])
def test_parity_is_of_names_too(kind: str, tmp_path: Path) -> None:
    module = ReturnsInput().eval()
    done = export_onnx(module, (X, MASK), tmp_path / "m.onnx", opset=None, dynamic_batch=True, names=BOTH, metadata={})
    names = TensorNames.of(module, (X, MASK), BOTH)
    assert check_parity(done.path, module, [(X, MASK)], names).ok
    model = onnx.load(done.path)
    value = getattr(model.graph, kind)[1]
    for node in model.graph.node:
        for written in (node.input, node.output):
            written[:] = ["other" if name == value.name else name for name in written]
    value.name = "other"
    onnx.save(model, done.path)
    assert check_parity(done.path, module, [(X, MASK)]).ok
    with pytest.raises(CannotRun, match="other"):
        check_parity(done.path, module, [(X, MASK)], names)
