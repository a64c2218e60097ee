"""Distillation, mixing, averaging, clipping, the best epoch: against formulas written out, and through a kill."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import raises_error
from torch import Tensor, nn
from toys import STEP, Halt, Interrupted, quiet, same, toy_data, toy_net

from compressor.data.tasks import regression
from compressor.errors import RecipeError
from compressor.training.distillation import divergence, feature_distance, feature_matching, record_features
from compressor.training.loop import train
from compressor.training.loss import make_loss, make_mixup
from compressor.training.precision import precision_policy
from compressor.training.schedules import constant
from compressor.training.train_settings import Distillation
from compressor.training.train_state import ema_weights
from compressor.training.training_checkpoint import TrainingCheckpoint


def test_the_divergence_is_kullback_and_leiblers_at_a_temperature() -> None:
    logits, taught = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
    expected = 0.0
    for row, goal in zip(logits.tolist(), taught.tolist(), strict=True):
        q = [math.exp(each / 2) for each in goal]
        p = [math.exp(each / 2) for each in row]
        q, p = [each / sum(q) for each in q], [each / sum(p) for each in p]
        expected += 4 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / 2
    assert divergence(logits, taught, 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(taught, taught, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_the_divergence() -> None:
    """d/dz of T^2 KL is T (softmax(z / T) - softmax(taught / T)) / B (Hinton et al., equation 2, times T^2)."""
    logits, taught = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    divergence(logits, taught, 3.0).backward()
    expected = 3.0 * ((logits / 3).softmax(1) - (taught / 3).softmax(1)) / 5
    torch.testing.assert_close(logits.grad, expected.detach())


def test_maps_are_compared_where_shapes_match() -> None:
    teacher = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 1)
    )
    student = nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 1)
    )
    images = torch.randn(2, 3, 8, 8)
    names = feature_matching(student, teacher, images)
    assert names == ("4",)  # the last of the maps of (6, 2, 2); those of 8 and 5 channels are left out
    with record_features(student, names) as ours, record_features(teacher, names) as theirs:
        student(images), teacher(images)
        assert list(ours) == ["4"]
        f, g = ours["4"].detach(), theirs["4"].detach()
        expected = sum((a - b) ** 2 for a, b in zip(f.flatten().tolist(), g.flatten().tolist(), strict=True))
        expected /= sum(b**2 for b in g.flatten().tolist())
        assert feature_distance(ours, theirs, names).item() == pytest.approx(expected, rel=1e-4)
    student(images)
    assert torch.equal(ours["4"].detach(), f), "no longer watched"


def test_tokens_are_maps_too_and_sums_of_half_precision_stay_finite() -> None:
    student, teacher = (nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 8)) for width in (5, 7))
    assert feature_matching(student, teacher, torch.randn(2, 4, 8)) == ("2",)
    maps, theirs = ({"2": torch.full((2, 64, 256), value, dtype=torch.float16)} for value in (4.0, 2.0))
    assert feature_distance(maps, theirs, ("2",)).item() == 1.0


def test_a_teachers_map_of_zeros_has_no_scale() -> None:
    maps, theirs = ({"2": torch.full((2, 3, 4, 4), value)} for value in (0.5, 0.0))
    assert feature_distance(maps, theirs, ("2",)).item() == 0.25
    assert feature_distance(theirs, theirs, ("2",)).item() == 0.0


@pytest.mark.parametrize(("width", "text"), [(6, "maps are compared after 3"), (5, "features has no effect: no feat")])
def test_which_maps_are_compared_is_told(width: int, text: str) -> None:
    teacher, student, told = toy_net(0), toy_net(0), list[str]()
    student[0], student[1] = nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width)
    student[5] = nn.Linear(36 * width, 4)
    step = replace(STEP, epochs=1, distill=Distillation(features=0.1))
    train(
        student, toy_data(), step, seed=0, emit=lambda _, fields: told.append(str(fields.get("text"))), teacher=teacher
    )
    assert any(text in each for each in told)


def test_distilling_alone_brings_the_student_to_the_teacher_and_leaves_the_teacher() -> None:
    teacher, student = toy_net(0), toy_net(0)
    train(teacher, toy_data(augmented=False), replace(STEP, epochs=5), seed=0, emit=quiet)
    before = {name: each.clone() for name, each in teacher.state_dict().items()}
    step = replace(
        STEP, epochs=15, schedule=constant(), distill=Distillation(temperature=2.0, weight=1.0, features=0.1)
    )
    train(student, toy_data(augmented=False), step, seed=1, emit=quiet, teacher=teacher)
    images = next(toy_data().val_batches(44))[0]
    apart = divergence(student(images), teacher(images), 1.0).item()
    assert apart < 0.05 < divergence(toy_net(0).eval()(images), teacher(images), 1.0).item()
    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_labels_say_how_much_of_each_image_there_is(mixup: float, cutmix: float) -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8)  # image i is the number i everywhere
    for _ in range(10):
        mixed, soft = make_mixup(mixup, cutmix, 4)(images, torch.arange(4))
        assert soft.shape == (4, 4)
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft @ torch.arange(4.0))


def test_without_classes_nothing_is_mixed() -> None:
    with raises_error(RecipeError, "retrain/mixing-without-classes", "retrain.mixup"):
        make_mixup(0.2, 0.0, None)
    images = torch.randn(2, 3, 4, 4)
    assert make_mixup(0.0, 0.0, None)(images, "targets") == (images, "targets")


def test_the_average_follows_its_recursion() -> None:
    module = nn.Linear(2, 1, bias=False)
    average, expected = ema_weights(module, 0.9), module.weight.detach().clone()
    assert average is not None
    for value in (1.0, -2.0, 5.0):
        nn.init.constant_(module.weight, value)
        average.update_parameters(module)
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(average.module.weight.detach(), expected)


class Gradients:
    """A constraint that notes the norm of all gradients as the optimizer is about to take them."""

    def __init__(self, module: nn.Module, total: int, norms: list[float]) -> None:
        self.module, self.norms = module, norms

    def after_backward(self, iteration: int) -> None:
        for parameter in self.module.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(100)

    def after_step(self, iteration: int) -> None:
        squares = [each.grad.square().sum() for each in self.module.parameters() if each.grad is not None]
        self.norms.append(float(torch.stack(squares).sum().sqrt()))


def test_gradients_are_clipped_last() -> None:
    norms: list[float] = []
    bind = partial(Gradients, norms=norms)
    train(toy_net(), toy_data(), replace(STEP, epochs=1, clip=0.5), seed=0, emit=quiet, constraints=[bind])
    assert norms == pytest.approx([0.5] * 5, rel=1e-3)


class HeldOut:
    """Toy data with a held-out split whose labels change from one reading to the next, so that the best epoch is not
    simply the last."""

    def __init__(self) -> None:
        self.data, self.read, self.has_holdout = toy_data(), 0, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def holdout_batches(self, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        self.read += 1
        images, labels = next(self.data.val_batches(44))
        return [(images, labels if self.read == 2 else (labels + 1) % 4)]


def test_the_best_epoch_is_kept() -> None:
    best, stopped, last = toy_net(0), toy_net(0), toy_net(0)
    step = replace(STEP, epochs=4, schedule=constant())
    found = train(best, HeldOut(), replace(step, keep="best"), seed=0, emit=quiet)
    held_out = [record["held_out"] for record in found.records]
    assert held_out[1] == max(held_out) > held_out[3]
    train(stopped, toy_data(), replace(step, epochs=2), seed=0, emit=quiet)
    train(last, toy_data(), step, seed=0, emit=quiet)
    assert same(best, stopped)
    assert not same(best, last)


def test_the_best_epoch_needs_images_held_out() -> None:
    with raises_error(RecipeError, "retrain/best-without-holdout", "retrain.keep", "data.holdout=10%"):
        train(toy_net(), toy_data(), replace(STEP, keep="best"), seed=0, emit=quiet)


@pytest.mark.parametrize(
    "more",
    [
        {"ema": 0.9},
        {"mixup": 0.4, "cutmix": 1.0},
        {"distill": Distillation(features=0.5), "clip": 1.0},
        {"ema": 0.5, "mixup": 0.2, "distill": Distillation()},
    ],
)
def test_all_of_it_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    monkeypatch.setattr("compressor.training.training_checkpoint.MIN_INTERVAL", -math.inf)
    monkeypatch.setattr("compressor.training.training_checkpoint.MAX_SHARE", math.inf)
    step, teacher = replace(STEP, **more), toy_net(0)
    plain, undisturbed, resumed = toy_net(), toy_net(), toy_net()
    train(plain, toy_data(), STEP, seed=2, emit=quiet)
    train(undisturbed, toy_data(), step, seed=2, emit=quiet, teacher=teacher)
    assert not same(plain, undisturbed)
    for at in (3, 6, 11):
        with pytest.raises(Interrupted):
            train(
                toy_net(), toy_data(), step, seed=2, emit=quiet, teacher=teacher,
                checkpoint=TrainingCheckpoint(tmp_path / "state", "a"), constraints=[partial(Halt, at=at)],
            )  # fmt: skip
    train(
        resumed,
        toy_data(),
        step,
        seed=2,
        emit=quiet,
        teacher=teacher,
        checkpoint=TrainingCheckpoint(tmp_path / "state", "a"),
    )
    assert same(resumed, undisturbed)


def test_answers_that_are_no_classes_are_distilled_by_mean_squares() -> None:
    data = replace(toy_data(), task=regression())
    student, teacher, step = toy_net(0), toy_net(0).eval(), replace(STEP, distill=Distillation(weight=0.25))
    computing = precision_policy("fp32", student, torch.device("cpu"))
    with make_loss(student, student, data, step, teacher, computing, quiet) as loss:
        images, targets = torch.randn(3, 3, 8, 8), torch.randn(3, 4)
        taught = teacher(images)
        student.train()
        expected = (
            0.75 * (student(images) - targets).square().mean() + 0.25 * (student(images) - taught).square().mean()
        )
        assert loss(images, targets).item() == pytest.approx(expected.item(), rel=1e-5)
