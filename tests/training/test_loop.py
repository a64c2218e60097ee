"""The loop: what it computes, that it repeats itself, and that an interrupted run ends with the same weights."""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from failures import raises_error
from torch import Tensor, nn
from toys import SGD, STEP, Halt, Interrupted, quiet, same, toy_data, toy_net

from compressor.data.image_data import ImageData
from compressor.data.splits import InMemorySplit
from compressor.data.tasks import classification, regression
from compressor.errors import RecipeError, VerificationFailed
from compressor.training.loop import train
from compressor.training.optimizers import make_optimizer
from compressor.training.schedules import constant
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_checkpoint import TrainingCheckpoint


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_sgd_written_out(nesterov: bool) -> None:
    """v <- m v + (g + wd w); w <- w - lr (g + wd w + m v), or lr v without Nesterov; lr of each iteration."""
    data, step = toy_data(), replace(STEP, optimizer=replace(SGD, nesterov=nesterov), label_smoothing=0.1)
    module, expected = toy_net(0), toy_net(0).train()
    records = train(module, data, step, seed=3, emit=quiet).records

    velocity = [torch.zeros_like(each) for each in expected.parameters()]
    losses, iterations = [], 5
    for epoch in range(step.epochs):
        for iteration, (images, labels) in enumerate(data.train_batches(8, epoch=epoch, seed=3)):
            log_p = expected(images).log_softmax(1)
            loss = -(0.9 * log_p.gather(1, labels[:, None]).mean() + 0.1 * log_p.mean())
            gradients = torch.autograd.grad(loss, list(expected.parameters()))
            lr = 0.05 * step.schedule(epoch + iteration / iterations)
            with torch.no_grad():
                for weight, gradient, v in zip(expected.parameters(), gradients, velocity, strict=True):
                    decayed = gradient + 1e-2 * weight
                    v.mul_(0.9).add_(decayed)
                    weight -= lr * (decayed + 0.9 * v if nesterov else v)
            losses.append(loss.item())
    for ours, theirs in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert [record["loss"] for record in records] == pytest.approx(
        [sum(losses[5 * epoch : 5 * epoch + 5]) / 5 for epoch in range(3)], rel=1e-4
    )
    assert [record["lr"] for record in records] == pytest.approx([0.05, 0.05 * 0.75, 0.05 * 0.25])
    assert [record["epoch"] for record in records] == [1, 2, 3]


def test_adamw_decays_matrices_only_and_sgd_everything() -> None:
    module = toy_net()
    groups = make_optimizer(module, OptimizerSettings("adamw", lr=1e-3, weight_decay=0.1, decay_all=False)).param_groups
    decay = {id(each): group["weight_decay"] for group in groups for each in group["params"]}
    assert {name: decay[id(each)] for name, each in module.named_parameters()} == {
        "0.weight": 0.1, "1.weight": 0.0, "1.bias": 0.0, "5.weight": 0.1, "5.bias": 0.0,
    }  # fmt: skip
    (group,) = make_optimizer(module, SGD).param_groups
    assert group["weight_decay"] == 1e-2
    assert len(group["params"]) == 5


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_same_seed_same_weights(precision: Literal["fp32", "bf16", "auto"]) -> None:
    step = replace(STEP, precision=precision)
    modules = [toy_net() for _ in range(3)]
    for module, seed in zip(modules, (5, 5, 6), strict=True):
        torch.rand(seed)  # numbers drawn elsewhere change nothing
        train(module, toy_data(), step, seed=seed, emit=quiet)
    assert same(modules[0], modules[1])
    assert not same(modules[0], modules[2])
    assert not modules[0].training
    assert all(each.dtype == torch.float32 and each.is_contiguous() for each in modules[0].parameters())


def test_leaves_the_random_numbers_of_the_caller_alone() -> None:
    before = torch.get_rng_state()
    module = toy_net()
    torch.set_rng_state(before)
    train(module, toy_data(), STEP, seed=0, emit=quiet)
    assert torch.equal(torch.get_rng_state(), before)


def test_learns_what_can_be_learned() -> None:
    module, data = toy_net(0), toy_data(augmented=False)
    records = train(module, data, replace(STEP, epochs=20, schedule=constant()), seed=0, emit=quiet).records
    assert records[-1]["loss"] < 0.1 < 1 < records[0]["loss"]


def test_frozen_parameters_are_trained() -> None:
    module, data = toy_net(), toy_data()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    before = [each.detach().clone() for each in module.parameters()]
    train(module, data, replace(STEP, epochs=1), seed=0, emit=quiet)
    assert not any(torch.equal(each, old) for each, old in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("optimizer", [SGD, OptimizerSettings("adamw", lr=1e-3, weight_decay=0.1)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("epochs_done", [1, 2, 3])
def test_resumes_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: OptimizerSettings,
    precision: Literal["fp32", "bf16"],
    epochs_done: int,
) -> None:
    monkeypatch.setattr("compressor.training.training_checkpoint.MAX_SHARE", math.inf)
    step, data = replace(STEP, optimizer=optimizer, precision=precision), toy_data()
    undisturbed = toy_net()
    expected = train(undisturbed, data, step, seed=2, emit=quiet).records

    def stop(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch" and fields["epoch"] == epochs_done:
            raise Interrupted

    file = tmp_path / "run" / "state.pt"
    with pytest.raises(Interrupted):
        train(toy_net(), data, step, seed=2, emit=stop, checkpoint=TrainingCheckpoint(file, "a"))
    assert [each.name for each in file.parent.iterdir()] == ["state.pt"]
    told: list[object] = []

    def listen(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch":
            told.append(fields["epoch"])

    resumed = toy_net()
    with torch.no_grad():
        resumed[5].weight.zero_()  # it all comes from the file
    records = train(resumed, data, step, seed=2, emit=listen, checkpoint=TrainingCheckpoint(file, "a")).records
    assert told == list(range(epochs_done + 1, 4))
    assert [each["loss"] for each in records] == [each["loss"] for each in expected]
    assert same(resumed, undisturbed)


def test_checkpoints_take_their_share_of_the_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 epochs that take as long as a checkpoint or less, hardly any is written, but the last one is."""
    written = []
    save = TrainingCheckpoint.save

    def slow(self: TrainingCheckpoint, state: Callable[[], Mapping[str, object]]) -> None:
        written.append(state()["progress"]["iterations"])  # type: ignore[index]
        save(self, state)
        self._cost = 3600.0

    monkeypatch.setattr(TrainingCheckpoint, "save", slow)
    step = replace(STEP, epochs=40)
    train(toy_net(), toy_data(), step, seed=0, emit=quiet, checkpoint=TrainingCheckpoint(tmp_path / "state", "a"))
    assert written == [5, 200]


@pytest.mark.parametrize("at", [1, 4, 5, 7, 14])
def test_resumes_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr("compressor.training.training_checkpoint.MIN_INTERVAL", -math.inf)
    monkeypatch.setattr("compressor.training.training_checkpoint.MAX_SHARE", math.inf)
    undisturbed, resumed = toy_net(), toy_net()
    train(undisturbed, toy_data(), STEP, seed=2, emit=quiet)
    halt = partial(Halt, at=at)
    with pytest.raises(Interrupted):
        train(
            toy_net(),
            toy_data(),
            STEP,
            seed=2,
            emit=quiet,
            checkpoint=TrainingCheckpoint(tmp_path / "state", "a"),
            constraints=[halt],
        )
    done = torch.load(tmp_path / "state", weights_only=True)["state"]["progress"]
    assert done["iterations"] == at
    assert (done["batches"], len(done["records"])) == (at % 5, at // 5)
    train(resumed, toy_data(), STEP, seed=2, emit=quiet, checkpoint=TrainingCheckpoint(tmp_path / "state", "a"))
    assert same(resumed, undisturbed)


def test_a_length_in_iterations() -> None:
    module, epochs = toy_net(), toy_net()
    trained = train(module, toy_data(), replace(STEP, epochs=0, iterations=7), seed=0, emit=quiet)
    assert [record["epoch"] for record in trained.records] == [1, 2]
    train(epochs, toy_data(), replace(STEP, epochs=0, iterations=15), seed=0, emit=quiet)
    whole = toy_net()
    train(whole, toy_data(), STEP, seed=0, emit=quiet)
    assert same(epochs, whole)
    assert not same(module, whole)


@pytest.mark.parametrize("optimizer", [SGD, OptimizerSettings("adamw", lr=1e-3, weight_decay=0.1)])
def test_what_an_optimizer_remembers_goes_on_in_the_next_training(optimizer: OptimizerSettings) -> None:
    """Two trainings of the same batches, one after the other: the second starts with the first one's momentum."""
    step = replace(STEP, epochs=1, optimizer=optimizer, schedule=constant())
    module = toy_net(0)
    first = train(module, toy_data(), step, seed=0, emit=quiet)
    again = copy.deepcopy(module)
    train(module, toy_data(), step, seed=0, emit=quiet, optimizer_state=first.optimizer_state)
    twice, forgetful = toy_net(0), again
    bound = make_optimizer(twice, optimizer)
    twice.train()
    for _ in range(2):
        for images, labels in toy_data().train_batches(8, epoch=0, seed=0):
            bound.zero_grad()
            nn.functional.cross_entropy(twice(images), labels).backward()
            bound.step()
    for ours, theirs in zip(module.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    train(forgetful, toy_data(), step, seed=0, emit=quiet)
    assert not same(forgetful, module)


@pytest.mark.parametrize("optimizer", [SGD, OptimizerSettings("adamw", lr=1e-3, weight_decay=0.1)])
def test_a_course_in_parts_is_the_course(optimizer: OptimizerSettings) -> None:
    """Rates, batches, augmentation, dropout and momentum go on where the part before ended."""
    step = replace(STEP, optimizer=optimizer)
    whole, parts = toy_net(), toy_net()
    expected = train(whole, toy_data(), step, seed=2, emit=quiet)
    first = train(parts, toy_data(), step.segment(0, 1), seed=2, emit=quiet)
    rest = train(parts, toy_data(), step.segment(1, 3), seed=2, emit=quiet, optimizer_state=first.optimizer_state)
    assert same(parts, whole)
    assert [each["lr"] for each in (*first.records, *rest.records)] == [each["lr"] for each in expected.records]
    assert [each["epoch"] for each in rest.records] == [1, 2], "a training by itself"
    assert step.segment(1, 3).segment(1, 2).start_epoch == 2
    other = toy_net()
    train(other, toy_data(), replace(step.segment(1, 3), start_epoch=0), seed=2, emit=quiet)
    assert not same(other, whole)


@pytest.mark.parametrize("damage", ["truncated", "empty", "junk"])
def test_a_damaged_checkpoint_is_not_continued(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "state.pt"
    train(toy_net(), toy_data(), replace(STEP, epochs=1), seed=0, emit=quiet, checkpoint=TrainingCheckpoint(file, "a"))
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "junk": b"hello"}[damage])
    fresh, module = toy_net(), toy_net()
    train(fresh, toy_data(), STEP, seed=0, emit=quiet)
    train(module, toy_data(), STEP, seed=0, emit=quiet, checkpoint=TrainingCheckpoint(file, "a"))
    assert same(module, fresh)


def test_the_checkpoint_of_another_run_is_neither_continued_nor_lost(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    train(toy_net(), toy_data(), replace(STEP, epochs=1), seed=0, emit=quiet, checkpoint=TrainingCheckpoint(file, "a"))
    whole = file.read_bytes()
    with raises_error(RecipeError, "resume/other-run"):
        train(toy_net(), toy_data(), STEP, seed=0, emit=quiet, checkpoint=TrainingCheckpoint(file, "b"))
    assert file.read_bytes() == whole


def test_a_loss_that_is_not_finite_names_the_place_and_a_way_out() -> None:
    step = replace(STEP, optimizer=replace(SGD, lr=1e30), schedule=constant())
    with raises_error(VerificationFailed, "training/diverged", "retrain.optimizer.lr=1e+29") as caught:
        train(toy_net(), toy_data(), step, seed=0, emit=quiet)
    assert re.fullmatch(r"epoch 1, iteration [2-5]", caught.value.place)
    assert re.search(r"\b(nan|inf)\b.* [\d.e+]+$", caught.value.problem), "the loss, and the last finite one"
    assert caught.value.exit_code == 6


def test_a_finite_loss_that_has_exploded_ends_the_training_too() -> None:
    """A line through one point, w <- (1 - 10 lr) w: its error grows 81 times with every step."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    nn.init.constant_(net[1].weight, 1.0)
    images = torch.full((4, 1, 1, 1), 5.0**0.5)
    split = InMemorySplit("one point", images, torch.zeros(4), list("abcd"))
    data = ImageData("one point", None, (0.0,), (1.0,), split, split, task=regression())
    step = replace(STEP, epochs=9, batch_size=4, optimizer=OptimizerSettings("sgd", 1.0, 0.0), schedule=constant())
    place, losses = "epoch 5, iteration 1", ("2.152e+08", "the first was 5", "2.657e+06")
    with raises_error(VerificationFailed, "training/diverged", place, *losses):
        train(net, data, step, seed=0, emit=quiet)


def test_progress_is_told_a_few_times_a_second() -> None:
    class Slow:
        name, num_classes, train_size, has_holdout, task = "slow", 4, 6, False, classification()
        batch_dims = None

        def train_batches(
            self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: tuple[int, int] = (0, 1)
        ) -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(6):
                time.sleep(0.12)
                yield torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)

        def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Tensor]:
            raise AssertionError

        def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Tensor, Tensor]]:
            yield torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)

        def holdout_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
            raise AssertionError("nothing is chosen here")

        def val_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
            raise AssertionError("the test set is not read while training")

    told: list[tuple[str, Mapping[str, object]]] = []
    train(
        toy_net(),
        Slow(),
        replace(STEP, epochs=1, batch_size=1),
        seed=0,
        emit=lambda event, fields: told.append((event, fields)),
    )
    progress = [fields for event, fields in told if event == "progress"]
    assert 1 <= len(progress) <= 4
    assert all(fields["total"] == 6 and fields["what"] == "epoch 1/1" for fields in progress)
    assert [event for event, _ in told][-1] == "epoch"


def test_no_epochs_change_nothing() -> None:
    module, before = toy_net(), toy_net()
    assert train(module, toy_data(), replace(STEP, epochs=0), seed=0, emit=quiet).records == ()
    assert same(module, before)
    assert not module.training


def test_auxiliary_outputs_are_left_aside() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_net(0)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.net(x), torch.zeros(len(x), 1)

    plain, module = toy_net(0), Two()
    train(plain, toy_data(), STEP, seed=0, emit=quiet)
    train(module, toy_data(), STEP, seed=0, emit=quiet)
    assert same(module.net, plain)
