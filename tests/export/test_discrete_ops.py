"""Parity of a model that chooses by value: its answers where they are firm, else the layers before the choice."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from compressor.export.discrete_ops import layer_outputs_before_discrete_ops
from compressor.export.exporters import optimized, trace_by_dynamo
from compressor.export.parity import check_parity, module_outputs
from compressor.export.reference import Reference
from compressor.export.tensor_names import TensorNames
from compressor.export.tolerance import FLOAT32_FILE
from compressor.file_module import FileModule

IMAGES = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


class Best(nn.Module):
    """The boxes at the three places with the highest scores; `firm` is how far the scores lie apart."""

    def __init__(self, firm: float, normalised: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.scores, self.boxes = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)
        self.norm = nn.BatchNorm2d(1) if normalised else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        with torch.no_grad():
            self.scores.weight.mul_(firm)
            self.scores.bias.fill_(1.0)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.trunk(x))
        places = self.norm(self.scores(x)).flatten(1).topk(3).indices
        return self.boxes(x).flatten(2).gather(2, places[:, None].expand(-1, 4, -1))


@functools.cache
def written(firm: float, normalised: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        names = TensorNames(("input",), ("output",))
        traced = trace_by_dynamo(Best(firm, normalised).eval(), IMAGES, (0,), (), None, names)
        ir.save(optimized(traced), path)  # without a comparison, which rounding may decide
        return path.read_bytes()


def exported(folder: Path, firm: float = 1e-6, normalised: bool = False) -> tuple[Path, nn.Module]:
    path = folder / "m.onnx"
    path.write_bytes(written(firm, normalised))
    return path, Best(firm, normalised).eval()


def is_rounding_sensitive(module: nn.Module, batch: Sequence[Tensor]) -> bool:
    return Reference(module, batch, module_outputs, FLOAT32_FILE).is_rounding_sensitive()


def turned(path: Path) -> None:
    """Make the file take the lowest scores: another answer from the same layers."""
    model = onnx.load(path)
    (node,) = (each for each in model.graph.node if each.op_type == "TopK")
    kept = [each for each in node.attribute if each.name != "largest"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("largest", 0)])
    onnx.save(model, path)


def test_answers_that_rounding_decides_are_not_compared_but_all_layers_before_are(tmp_path: Path) -> None:
    path, module = exported(tmp_path)
    assert is_rounding_sensitive(module, IMAGES)
    turned(path)
    found = check_parity(path, module, [IMAGES])
    assert (found.ok, found.compared) == (True, "layers before a choice by value")
    assert found.max_abs_error < 1e-5
    with layer_outputs_before_discrete_ops(path, module) as layers:
        assert layers is not None
        assert len(layers.outputs) == 3
        firsts = layers.of(module, IMAGES)[0]
        assert np.array_equal(firsts, module.trunk(IMAGES[0]).detach().numpy()), "not what ReLU made of it in place"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["trunk.weight", "trunk.bias", "scores.bias"])
def test_a_wrong_layer_before_the_choice_is_found(tmp_path: Path, name: str) -> None:
    path, module = exported(tmp_path)
    turned(path)
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.1), name))
    onnx.save(model, path)
    assert not check_parity(path, module, [IMAGES]).ok


class OfFile(FileModule):
    """The module of a file whose trunk is in float16."""

    batch_dims = (0,)

    def __init__(self, inner: Best) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_layers_of_a_file_in_float16_may_differ_as_its_answers_may(tmp_path: Path) -> None:
    """Its trunk is in float16, and its scores and boxes in float32, as exports of detectors have them."""
    path, module = exported(tmp_path)
    turned(path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("trunk"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    conv, relu, *rest = model.graph.node
    value = relu.output[0]
    conv.input[0], relu.output[0] = "image16", "relu16"
    to_half = onnx.helper.make_node("Cast", ["input"], ["image16"], to=onnx.TensorProto.FLOAT16)
    to_float = onnx.helper.make_node("Cast", ["relu16"], [value], to=onnx.TensorProto.FLOAT)
    nodes = [to_half, conv, relu, to_float, *rest]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    found = check_parity(path, OfFile(module).eval(), [IMAGES])
    assert (found.ok, found.compared) == (True, "layers before a choice by value")
    assert found.max_abs_error > 1e-5


def test_firm_answers_are_compared_themselves(tmp_path: Path) -> None:
    path, module = exported(tmp_path, firm=1.0)
    assert not is_rounding_sensitive(module, IMAGES)
    assert (check_parity(path, module, [IMAGES]).ok, check_parity(path, module, [IMAGES]).compared) == (True, "answers")
    turned(path)
    found = check_parity(path, module, [IMAGES])
    assert (found.ok, found.compared) == (False, "answers")


def test_layers_vouch_for_a_choice_only_if_none_lies_between(tmp_path: Path) -> None:
    """The exporter folds the normalisation into the scores' layer: no layer of the module writes what it writes."""
    path, module = exported(tmp_path, normalised=True)
    with layer_outputs_before_discrete_ops(path, module) as layers:
        assert layers is None
    turned(path)
    assert not check_parity(path, module, [IMAGES]).ok


def test_scores_of_outputs_near_zero_are_equal_whatever_rounding_does_to_these() -> None:
    """As in a detector with random weights: every class has the same probability."""

    class Chosen(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(8, 8)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.mul_(scale)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).softmax(1).topk(1).indices * 10.0

    assert is_rounding_sensitive(Chosen(1e-15), [torch.ones(1, 8)])
    assert not is_rounding_sensitive(Chosen(1.0), [torch.ones(1, 8)])


def test_what_is_equal_in_float32_only_is_decided_by_rounding_too() -> None:
    class Tied(nn.Module):
        """Scores that float64 orders and float32 does not; no layer of it can be nudged."""

        def forward(self, x: Tensor) -> Tensor:
            slope = torch.arange(x.shape[1], dtype=x.dtype) * 1e-9
            return (1 + slope).topk(1).indices * x.square().sum().clamp(1, 1)

    assert is_rounding_sensitive(Tied(), [torch.ones(1, 8)])
    assert not is_rounding_sensitive(nn.Linear(8, 8), [torch.ones(1, 8)])
