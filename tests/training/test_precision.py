"""float16: it trains what float32 does, steps without finite gradients are skipped, and a kill changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from failures import raises_error
from torch import Tensor, nn
from toys import STEP, Halt, Interrupted, quiet, same, toy_data, toy_net

from compressor.core import Task
from compressor.data.image_data import ImageData
from compressor.errors import VerificationFailed
from compressor.training.distributed.runtime import single_process
from compressor.training.float32_attention import MOST_POSITIONS
from compressor.training.loop import train
from compressor.training.precision import LEAST_SCALE, precision_policy
from compressor.training.schedules import constant
from compressor.training.train_settings import Precision
from compressor.training.train_step import make_iteration
from compressor.training.training_checkpoint import TrainingCheckpoint

CPU = torch.device("cpu")
HALF = replace(STEP, precision="fp16")


def steep(factor: float) -> ImageData:
    """Data with a loss of so many times the usual gradients."""
    data = toy_data()

    def loss(output: Any, target: Any, label_smoothing: float) -> Tensor:
        return factor * data.task.loss(output, target, label_smoothing)

    return replace(data, task=Task("classification", loss, data.task.metric))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_what_a_recipe_names_is_what_layers_compute_in(precision: Precision, dtype: torch.dtype) -> None:
    computing = precision_policy(precision, toy_net(), CPU)
    with computing.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    assert computing.scaler().is_enabled() == (precision == "fp16")


@pytest.mark.parametrize(("positions", "dtype"), [(5, torch.float32), (MOST_POSITIONS + 1, torch.bfloat16)])
def test_attention_over_few_positions_is_computed_in_float32(
    monkeypatch: pytest.MonkeyPatch, positions: int, dtype: torch.dtype
) -> None:
    native, types = F.scaled_dot_product_attention, []

    def attention(*tensors: Tensor, dropout_p: float) -> Tensor:
        types.extend(tensor.dtype for tensor in tensors)
        return native(*tensors, dropout_p=dropout_p)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    query = torch.randn(1, 2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    key, value = torch.randn(2, 1, 2, positions, 4).bfloat16()
    mask = torch.randn(3, positions).bfloat16()
    with precision_policy("bf16", toy_net(), CPU).autocast():
        result = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=0.0)
    assert types == 4 * [dtype]
    assert result.dtype == torch.bfloat16
    weights = ((query @ key.mT).float() / 2 + mask).softmax(-1)
    torch.testing.assert_close(result.float(), weights @ value.float(), atol=0.02, rtol=0.02)
    assert torch.autograd.grad(result.float().sum(), query)[0].dtype == torch.bfloat16
    assert F.scaled_dot_product_attention is attention


@pytest.mark.parametrize("multiplies", [True, False])
def test_auto_is_bfloat16_where_the_processor_multiplies_it_but_for_depthwise_convolutions(
    monkeypatch: pytest.MonkeyPatch, multiplies: bool
) -> None:
    monkeypatch.setattr("compressor.training.precision._multiplies_bf16", lambda device: multiplies)
    whole, grouped, depthwise = (nn.Sequential(nn.Conv2d(8, 8, 3, groups=groups)) for groups in (1, 2, 8))
    pays = torch.bfloat16 if multiplies else torch.float32
    assert [precision_policy("auto", each, CPU).dtype for each in (whole, grouped)] == [pays, pays]
    assert precision_policy("auto", depthwise, CPU).dtype == torch.float32
    assert precision_policy("auto", nn.Conv2d(1, 8, 3), CPU).dtype == pays, "one channel in is not depthwise"
    assert precision_policy("bf16", depthwise, CPU).dtype == torch.bfloat16


def test_trains_what_float32_trains() -> None:
    whole, half = toy_net(0), toy_net(0)
    expected = train(whole, toy_data(), STEP, seed=0, emit=quiet).records
    found = train(half, toy_data(), HALF, seed=0, emit=quiet).records
    assert [each["loss"] for each in found] == pytest.approx([each["loss"] for each in expected], rel=0.02)
    assert not same(whole, half)
    assert all(each.dtype == torch.float32 for each in half.state_dict().values() if each.is_floating_point())


class Spy:
    """A constraint that keeps the gradients it is shown."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self.seen: list[float] = []

    def after_backward(self, iteration: int) -> None:
        assert self.weight.grad is not None
        self.seen.append(self.weight.grad.item())

    def after_step(self, iteration: int) -> None:
        pass


def test_steps_are_skipped_until_the_gradient_has_room() -> None:
    """The loss is 1000 w, its gradient in float16 is 1000 times the scale: at most 65504 with a scale of 2^6."""
    weight = nn.Parameter(torch.ones(()))
    optimizer, spy = torch.optim.SGD([weight], 1e-3), Spy(weight)
    scaler = precision_policy("fp16", toy_net(), CPU).scaler()
    iterate = make_iteration(
        lambda images, targets: (weight.half() * 1000).float(), optimizer, [spy], None, single_process(), scaler
    )
    for number in range(10):
        assert iterate(torch.zeros(1), torch.zeros(1), number, 1e-3) == 1000
        assert scaler.get_scale() == 2.0 ** (15 - number)
    assert weight.item() == 1
    iterate(torch.zeros(1), torch.zeros(1), 10, 1e-3)
    assert spy.seen == [*[math.inf] * 10, 1000]
    assert weight.item() == pytest.approx(0, abs=1e-6)
    assert scaler.get_scale() == 2.0**6


@pytest.mark.parametrize("at", [3, 12])
def test_resumes_bit_for_bit_while_steps_are_skipped_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr("compressor.training.training_checkpoint.MIN_INTERVAL", -math.inf)
    monkeypatch.setattr("compressor.training.training_checkpoint.MAX_SHARE", math.inf)
    data, undisturbed, resumed = steep(1000), toy_net(), toy_net()
    step = replace(HALF, optimizer=replace(HALF.optimizer, lr=1e-5))
    train(undisturbed, data, step, seed=2, emit=quiet)
    file = partial(TrainingCheckpoint, tmp_path / "state", "a")
    with pytest.raises(Interrupted):
        train(toy_net(), data, step, seed=2, emit=quiet, checkpoint=file(), constraints=[partial(Halt, at=at)])
    train(resumed, data, step, seed=2, emit=quiet, checkpoint=file())
    assert same(resumed, undisturbed)
    assert not same(resumed, toy_net()), "some steps were done"


class Endless(torch.autograd.Function):
    """x -> x, with a gradient that is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.full_like(gradients[0], math.inf)


class Hopeless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = toy_net(0)

    def forward(self, images: Tensor) -> Any:
        return Endless.apply(self.net(images))


def test_gradients_that_are_finite_at_no_scale_end_the_training() -> None:
    step = replace(HALF, epochs=9, schedule=constant())
    skipped = round(math.log2(2**16 / LEAST_SCALE)) + 1
    epoch, iteration = divmod(skipped - 1, 5)
    place = f"epoch {epoch + 1}, iteration {iteration + 1}"
    with raises_error(VerificationFailed, "training/diverged", place, "bf16"):
        train(Hopeless(), toy_data(), step, seed=0, emit=quiet)
