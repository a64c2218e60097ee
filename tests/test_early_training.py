"""Trainings before removal that a rule ends: what is told of them, and what they leave of the retraining.

And what is told of a retraining that comes to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressor.budget.target import PruningTarget
from compressor.core import Data, LoadedModel, ModelSpec, one_image
from compressor.criteria.magnitude import l1
from compressor.data.image_data import ImageData
from compressor.run_log import RunLog
from compressor.steps.base import Step
from compressor.steps.context import Context
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.steps.train import Train
from compressor.training.early_stopping import EarlyStop, RuleState, StopDecision
from compressor.training.loop import TrainResult
from compressor.training.loop import train as trained
from compressor.training.schedules import multistep
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import few_digits

SGD = OptimizerSettings("sgd", lr=0.01)


def enough(memory: RuleState, epoch: int, weights: Mapping[str, Tensor], *, epochs: int) -> StopDecision:
    return StopDecision({}, epoch == epochs, 0.25 * epoch, 0.5)


EARLY = Train(
    64, SGD, lambda done: 1.0, epochs=4, stop=EarlyStop("enough", partial(enough, epochs=2)),
    counts_toward_retraining=True, stage="early training", precision="fp32",
)  # fmt: skip
RETRAIN = Train(64, SGD, multistep((5,), 0.1), epochs=10, precision="fp32")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return few_digits(128)


def model() -> LoadedModel:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    return LoadedModel(module.eval(), ModelSpec("net.py:net", one_image((1, 8, 8)), 10), "net")


def run(
    steps: tuple[Step, ...], data: ImageData, folder: Path
) -> tuple[PruningState, list[Train], list[tuple[str, Mapping[str, object]]]]:
    seen: list[Train] = []
    events: list[tuple[str, Mapping[str, object]]] = []

    def train(module: nn.Module, data: Data, step: Train, **how: Any) -> TrainResult:
        seen.append(step)
        return trained(module, data, replace(step, epochs=min(step.epochs, 4)), **how)

    around = Context(
        data,
        0,
        RunLog(emit=lambda event, fields: events.append((event, fields))),
        Checkpoints(folder, "test"),
        train=train,
    )
    work = initial_state(model(), around)
    for step in steps:
        work = run_step(step, work, around)
    return work, seen, events


def said(events: list[tuple[str, Mapping[str, object]]], kind: str) -> list[str]:
    return [str(fields["text"]) for event, fields in events if event == kind and "near chance" not in fields["text"]]


def pruning(early: Train) -> tuple[Step, ...]:
    return early, SelectChannels(l1, PruningTarget(ratio=0.5)), RemoveChannels(), RETRAIN


def test_the_retraining_goes_on_where_the_early_training_ended(digits: ImageData, tmp_path: Path) -> None:
    work, (_, retraining), events = run(pruning(EARLY), digits, tmp_path)
    assert said(events, "note") == ["early training ended after epoch 2: enough was reached (0.5 against 0.5)"]
    assert (retraining.start_epoch, retraining.epochs) == (2, 8), "ten in all, with the images of the others"
    # The rate falls at epoch 5 of all.
    assert [retraining.schedule(done) for done in (0, 2.9, 3, 7.9)] == pytest.approx([1, 1, 0.1, 0.1])
    assert work.certificate is not None
    assert "after early training" in work.quality
    assert "Train(8 epochs, sgd)" in work.steps


def test_as_released_they_are_not_counted(digits: ImageData, tmp_path: Path) -> None:
    early = replace(EARLY, counts_toward_retraining=False, stop=EarlyStop("enough", partial(enough, epochs=9)))
    _, (_, retraining), events = run(pruning(early), digits, tmp_path)
    assert retraining.epochs == 10
    (note,) = said(events, "note")
    assert note == "early training ended after epoch 4, its last: enough was not reached (1 against 0.5)"


def test_a_retraining_of_which_nothing_is_left_lasts_one_epoch_and_says_so(digits: ImageData, tmp_path: Path) -> None:
    steps = (*pruning(EARLY)[:-1], replace(RETRAIN, epochs=2, schedule=lambda done: 1.0))
    _, (_, retraining), events = run(steps, digits, tmp_path)
    assert retraining.epochs == 1
    (warning,) = said(events, "warning")
    assert "took 2 epochs" in warning
    assert "one epoch" in warning


def test_a_retrained_model_that_guesses_is_doubted_aloud(digits: ImageData, tmp_path: Path) -> None:
    """Random weights learn nothing at such a rate; at the usual one they do."""
    for lr, doubted in ((1e-9, True), (0.01, False)):
        step = replace(RETRAIN, optimizer=OptimizerSettings("sgd", lr, 0.9), epochs=4)
        work, _, events = run((step,), digits, tmp_path / str(lr))
        near = [str(fields["text"]) for event, fields in events if event == "warning"]
        assert any(each.startswith("the retrained model is near chance") for each in near) is doubted
        if doubted:
            assert near[-1].endswith(
                f"({work.quality['after retraining']:.2f} %) on digits: retrain.optimizer.lr=1e-09 "
                "may be too large, the epochs too few, or too much was removed"
            )
