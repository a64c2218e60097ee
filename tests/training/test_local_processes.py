"""Several processes train what one would; one that dies ends the training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import raises_error
from torch import nn
from toys import Dying, Shrinking  # by a name that other processes find them under

from compressor.data.image_data import ImageData
from compressor.data.splits import InMemorySplit
from compressor.errors import RecipeError, Temporary, VerificationFailed
from compressor.steps.train import Train
from compressor.training.distributed.local import train_with_processes
from compressor.training.loop import train
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_checkpoint import TrainingCheckpoint

STEP = Train(
    epochs=2, batch_size=8, optimizer=OptimizerSettings("sgd", lr=0.05, weight_decay=1e-3, nesterov=True),
    schedule=lambda done: 1 / (1 + done), precision="fp32",
)  # fmt: skip


def toy_data() -> ImageData:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    split = InMemorySplit("toy", images, torch.randint(0, 4, (40,), generator=generator), [""] * 40)
    return ImageData("toy", 4, (0.5,) * 3, (0.25,) * 3, split, split, augment="cifar")


def toy_net() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))


def quiet(event: str, fields: Mapping[str, object]) -> None:
    pass


def assert_close(ours: nn.Module, theirs: nn.Module) -> None:
    for name, expected in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_two_processes_train_what_one_does() -> None:
    one, two, seen = toy_net(), toy_net(), []
    expected = train(one, toy_data(), STEP, seed=3, emit=quiet, constraints=[Shrinking])

    def listen(event: str, fields: Mapping[str, Any]) -> None:
        if event == "epoch":
            seen.append((fields["epoch"], fields["loss"], two[0].weight.clone()))

    found = train_with_processes(2)(two, toy_data(), STEP, seed=3, emit=listen, constraints=[Shrinking])
    assert_close(two, one)
    assert [epoch for epoch, *_ in seen] == [1, 2]
    assert [loss for _, loss, _ in seen] == pytest.approx([each["loss"] for each in expected.records], rel=1e-4)
    assert not torch.equal(seen[0][2], toy_net()[0].weight), "who listens sees the weights of the epoch told"
    assert torch.equal(seen[1][2], two[0].weight)
    for name, remembered in expected.optimizer_state.items():
        torch.testing.assert_close(
            found.optimizer_state[name]["momentum_buffer"], remembered["momentum_buffer"], rtol=1e-3, atol=1e-5
        )


def test_a_process_that_dies_ends_the_training_which_goes_on_with_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, undisturbed, resumed = tmp_path / "state", toy_net(), toy_net()
    with raises_error(Temporary, "training/process-died", "2 of 2", "SIGKILL", "--resume"):
        train_with_processes(2)(
            toy_net(), toy_data(), STEP, seed=3, emit=quiet, checkpoint=TrainingCheckpoint(state, "a"),
            constraints=[partial(Dying, at=7)],
        )  # fmt: skip
    done = torch.load(state, weights_only=True)["state"]["progress"]["iterations"]
    assert 1 <= done <= 7, "5 where starting is quick"
    train(undisturbed, toy_data(), STEP, seed=3, emit=quiet)
    train(resumed, toy_data(), STEP, seed=3, emit=quiet, checkpoint=TrainingCheckpoint(state, "a"))
    assert_close(resumed, undisturbed)


@pytest.mark.long
def test_an_error_comes_back_as_what_it_was() -> None:
    step = Train(epochs=1, batch_size=8, optimizer=OptimizerSettings("sgd", lr=1e30), schedule=lambda done: 1.0)
    with raises_error(
        VerificationFailed,
        "training/diverged",
        "epoch 1",
        re.compile(r"iteration [2-5]"),
        re.compile(r"loss is (nan|inf)"),
    ):
        train_with_processes(2)(toy_net(), toy_data(), step, seed=3, emit=quiet)


def test_a_batch_that_is_not_shared_evenly_is_refused() -> None:
    with raises_error(RecipeError, "training/uneven-batches", "3 processes", "8 images", "multiple of 3", "6"):
        train_with_processes(3)(toy_net(), toy_data(), STEP, seed=3, emit=quiet)
