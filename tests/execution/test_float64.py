"""Passes in float64, whatever types a forward names, from equal random numbers and with equal choices."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.execution.equal_choices import Choices, RecordChoices, RepeatChoices
from compressor.execution.float64 import run_in_float64
from compressor.execution.randomness import equal_randomness


class Casts(nn.Module):
    """Says float32 in every way there is."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer, self.kernel = way, nn.Linear(4, 4), torch.full((4, 4), 1 / 3)

    def forward(self, x: Tensor) -> Tensor:
        third = 1 / 3
        match self.way:
            case "float":
                return self.layer(x.float() * third)
            case "to":
                return self.layer(x.to(torch.float32) * third)
            case "half":
                return self.layer((x.half() * third).to(self.layer.weight.dtype))
            case "type":
                return self.layer(x.type(torch.float32) * third)
            case "factory":
                return self.layer(torch.full_like(x, third, dtype=torch.float32))
            case "arange":
                return self.layer(torch.arange(4, dtype=torch.float32).expand(2, 4) * third)
            case "tensor":
                return self.layer(x * torch.tensor([3.0] * 4, dtype=torch.float32).reciprocal())
            case "numpy":
                return nn.functional.linear(x * third, torch.from_numpy(np.eye(4, dtype=np.float32)))
            case "attribute":
                return nn.functional.linear(x, self.kernel * 3 / 3)
            case "softmax":
                return self.layer(x.softmax(1, dtype=torch.float32))
            case "autocast":
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    return self.layer(x * third)
        raise AssertionError(self.way)


WAYS = ["float", "to", "half", "type", "factory", "arange", "tensor", "numpy", "attribute", "softmax", "autocast"]


@pytest.mark.parametrize("way", WAYS)
def test_every_cast_means_float64(way: str) -> None:
    module, x = Casts(way), torch.randn(2, 4)
    with torch.inference_mode():
        answer = run_in_float64(module, [x])
    weight, bias, third = module.layer.weight, module.layer.bias, 1 / 3
    expected = {
        "factory": lambda: torch.full((2, 4), third, dtype=torch.float64),
        "arange": lambda: torch.arange(4).double().expand(2, 4) * third,
        "tensor": lambda: x.double() * torch.tensor(3.0).double().reciprocal(),
        "softmax": lambda: x.double().softmax(1),
    }.get(way, lambda: x.double() * third)()
    if way == "numpy":
        weight, bias = torch.eye(4).double(), torch.zeros(4).double()
    if way == "attribute":
        expected, weight, bias = x.double(), torch.full((4, 4), 1 / 3).double() * 3 / 3, torch.zeros(4).double()
    assert answer.dtype == torch.float64
    assert torch.allclose(answer, nn.functional.linear(expected, weight, bias), rtol=1e-14, atol=1e-15)


def test_the_callers_default_type_stays() -> None:
    with torch.inference_mode(), pytest.raises(ZeroDivisionError):
        run_in_float64(nn.Identity(), [], lambda module: 1 / 0)
    assert torch.get_default_dtype() == torch.float32


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.rand())


def test_blocks_draw_equal_numbers_and_leave_the_generators_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    alone = [draws(), draws()]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    first = draws()
    with equal_randomness():
        one = draws()
    with equal_randomness():
        two = draws()
    assert one == two
    assert [first, draws()] == alone


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_generators_of_gpus_are_seeded_and_restored() -> None:
    torch.zeros(1, device="cuda")
    torch.cuda.manual_seed(1)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(1)
    with equal_randomness():
        one = torch.rand(3, device="cuda")
    with equal_randomness():
        two = torch.rand(3, device="cuda")
    assert torch.equal(one, two)
    assert torch.equal(torch.rand(3, device="cuda"), expected)


def second_takes_over(first: Tensor, second: Tensor, function: object) -> tuple[object, object, Choices]:
    choices = Choices()
    with RecordChoices(choices):
        one = function(first)
    with RepeatChoices(choices):
        two = function(second)
    return one, two, choices


NEARLY = torch.tensor([[1.0, 2.0, 2.0 + 1e-6, 0.0], [0.0, 3.0 + 1e-6, 3.0, 1.0]])
OTHER = torch.tensor([[1.0, 2.0 + 1e-6, 2.0, 0.0], [0.0, 3.0, 3.0 + 1e-6, 1.0]])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.topk(2, dim=1),
        lambda x: x.sort(dim=1, descending=True),
        lambda x: x.max(dim=1),
        lambda x: x.max(dim=1, keepdim=True),
        lambda x: x.kthvalue(4, dim=1),
        lambda x: (x.argmax(1),),
        lambda x: (x.argsort(1),),
        lambda x: ((x >= 2.0000005).nonzero(),),
    ],
)
def test_near_ties_are_decided_alike(function: object) -> None:
    own = function(OTHER)
    one, two, choices = second_takes_over(NEARLY, OTHER, function)
    assert not torch.equal(own[-1], one[-1]), "the scores decide otherwise by themselves"
    assert torch.equal(one[-1], two[-1])
    assert torch.allclose(one[0], two[0], rtol=1e-5)
    assert choices.max_rel_error == pytest.approx(1e-6 / 3, rel=0.3)


def test_values_are_those_of_the_second_pass() -> None:
    _, two, _ = second_takes_over(NEARLY, 10 * OTHER, lambda x: x.topk(1, dim=1))
    assert torch.equal(two.values, torch.tensor([[20.0], [30.0]]))


def test_other_scores_are_reported() -> None:
    _, _, choices = second_takes_over(NEARLY, OTHER + 1, lambda x: x.argmax(1))
    assert choices.max_rel_error == pytest.approx(1 / 3, rel=1e-3)


def test_choices_among_other_numbers_are_made_anew() -> None:
    _, two, _ = second_takes_over(NEARLY, OTHER[:, :2], lambda x: x > 1.5)
    assert two.tolist() == [[False, True], [False, True]]
