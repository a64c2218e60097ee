"""Parity of networks whose answers hang on more than their input: random numbers, state, autocast, near ties."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from exports import export_onnx
from failures import raises_error
from torch import Tensor, nn

from compressor.core import ExportedModel
from compressor.errors import ModelError
from compressor.execution.central_draws import CentralDraws, UnknownDraw
from compressor.export.parity import check_parity, module_outputs
from compressor.export.reference import Reference
from compressor.export.tolerance import FLOAT32_FILE, compare_outputs, rounding_error

DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "randn_like": lambda x: x + torch.randn_like(x),
    "randn": lambda x: x + torch.randn(x.shape[0], 1, 4),
    "rand": lambda x: x * torch.rand(x.shape),
    "normal_": lambda x: x * torch.empty_like(x).normal_(1, 2),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.7)),
    "bernoulli_": lambda x: x * torch.empty_like(x).bernoulli_(0.7),
    "randint": lambda x: x * torch.randint(2, 5, x.shape),
    "dropout": lambda x: nn.functional.dropout(x, 0.3, training=True),
    "gumbel": lambda x: nn.functional.gumbel_softmax(x),
}


def every_draw(x: Tensor) -> Tensor:
    for draw in DRAWS.values():
        x = draw(x)
    return x


class Special(nn.Module):
    def __init__(self, special: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.special, self.last = nn.Linear(4, 4), special, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.special(self.first(x)))


def exported(module: nn.Module, folder: Path, *shape: int) -> ExportedModel:
    inputs = [torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))]
    return export_onnx(module.eval(), inputs, folder / "m.onnx", opset=None, dynamic_batch=True, metadata={})


def changed(path: Path, name: str) -> None:
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.1), name))
    onnx.save(model, path)


@pytest.mark.parametrize(
    "draw", [every_draw, *(pytest.param(draw, id=name, marks=pytest.mark.long) for name, draw in DRAWS.items())]
)
def test_random_draws_are_compared_at_their_centres(draw: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    module = Special(draw)
    done = exported(module, tmp_path, 3, 4)
    assert done.ok
    assert done.compared == "answers with random numbers at their centres"
    assert done.max_abs_error < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    changed(done.path, "last.bias")
    assert not check_parity(done.path, module, [[torch.randn(2, 3, 4)]]).ok


@pytest.mark.long
def test_draws_without_a_centre_are_named(tmp_path: Path) -> None:
    def sampled(x: Tensor) -> Tensor:
        return x * torch.multinomial(x.softmax(-1).flatten(0, 1), 1).reshape(x.shape[0], 3, 1)

    with raises_error(ModelError, "export/every-exporter-failed", re.compile("[Mm]ultinomial")):
        exported(Special(sampled), tmp_path, 3, 4)


def test_a_draw_without_a_centre_is_an_error() -> None:
    with pytest.raises(UnknownDraw), torch.inference_mode(), CentralDraws():
        torch.randperm(4)


def test_attention_without_dropout_draws_nothing() -> None:
    x = torch.randn(1, 1, 4, 4)
    with torch.inference_mode(), CentralDraws():
        answer = nn.functional.scaled_dot_product_attention(x, x, x)
    assert torch.allclose(answer, nn.functional.scaled_dot_product_attention(x, x, x))


class Counts(nn.Module):
    """Its answer depends on what it was asked before."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), torch.zeros(())
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        self.mean = 0.9 * self.mean + 0.1 * x.mean((0, 1))
        x = x - self.mean + self.last
        self.last = x.mean()
        return x


def test_every_batch_is_answered_from_the_same_state(tmp_path: Path) -> None:
    module = Counts()
    assert exported(module, tmp_path, 3, 4).ok
    assert not module.mean.any()


def test_autocast_is_compared_in_the_type_of_the_weights(tmp_path: Path) -> None:
    class Lower(Special):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    done = exported(Lower(torch.relu), tmp_path, 3, 4)
    assert done.ok
    assert done.max_abs_error < 1e-6
    assert any("bfloat16" in note for note in done.notes)


class BestTokens(nn.Module):
    """Takes the best of nearly equal tokens; the scores' layer is written as a matrix product and a sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.score, self.head = nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(8, 4)
        nn.init.normal_(self.score.weight, std=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.trunk(x))
        best = self.score(x).squeeze(-1).topk(5, dim=1).indices
        return self.head(x.gather(1, best[..., None].expand(-1, -1, 8)))


def test_scores_of_matrix_products_are_compared_before_the_choice(tmp_path: Path) -> None:
    module = BestTokens()
    done = exported(module, tmp_path, 40, 6)
    assert done.ok
    inputs = [torch.randn(2, 40, 6)]
    model = onnx.load(done.path)
    node = next(node for node in model.graph.node if node.op_type == "TopK")
    next(attribute for attribute in node.attribute if attribute.name == "largest").i = 0
    onnx.save(model, done.path)
    turned = check_parity(done.path, module, [inputs])
    assert (turned.ok, turned.compared) == (True, "layers before a choice by value")
    changed(done.path, "trunk.bias")
    assert not check_parity(done.path, module, [inputs]).ok


@pytest.mark.parametrize(("scale", "ok"), [(1e-41, True), (1e-30, False)])
def test_differences_below_the_smallest_normal_number_do_not_count(scale: float, ok: bool) -> None:
    reference = np.array([scale, 0.0], dtype=np.float32)
    expected = SimpleNamespace(rounding=FLOAT32_FILE, outputs=[reference], in_float64=[], in_noise=[])
    assert compare_outputs([np.zeros(2, dtype=np.float32)], expected, ["out"]).ok is ok


class QuickVariance(nn.Module):
    """A variance as E[x^2] - E[x]^2, which loses digits where the mean is large; and buffers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(4, 512), nn.BatchNorm1d(512), nn.Linear(512, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)) + 30
        variance = (x * x).mean(1, keepdim=True) - x.mean(1, keepdim=True) ** 2
        return self.last((x - x.mean(1, keepdim=True)) / torch.sqrt(variance.clamp(min=1e-9)))


def test_rounding_that_the_network_magnifies_is_allowed_and_another_weight_is_not(tmp_path: Path) -> None:
    module, inputs = QuickVariance().eval(), [torch.randn(3, 4, generator=torch.Generator().manual_seed(0))]
    exact = Reference(module, inputs, module_outputs, FLOAT32_FILE).in_float64
    assert 1e-5 < rounding_error(module_outputs(module, inputs)[0], exact[0]) < 1e-2
    done = exported(module, tmp_path, 4)
    assert done.ok
    changed(done.path, "last.bias")
    assert not check_parity(done.path, module, [inputs]).ok


@pytest.mark.parametrize(("exact", "noise", "ok"), [(0.0, 0.0, False), (2e-5, 0.0, True), (0.0, 3e-4, True)])
def test_rounding_is_measured_in_float64_and_by_noise(exact: float, noise: float, ok: bool) -> None:
    reference = np.ones(1, np.float32)
    truth, noisy = [reference + exact], [[reference + noise], [np.ones(2)]]
    expected = SimpleNamespace(rounding=FLOAT32_FILE, outputs=[reference], in_float64=truth, in_noise=noisy)
    assert compare_outputs([reference + 2.5e-4], expected, ["out"]).ok is ok
