"""Epochs of trainings: drawn as curves, and summed up as trainability."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compressor.core import StableLearningRate, TrainingHistory
from compressor.report.findings.epoch_curves import epoch_curves
from compressor.report.findings.trainability import first_stage, trainability_record
from compressor.training.schedules import constant, cosine, multistep, onecycle, warmup
from compressor.training.train_settings import Schedule


@pytest.mark.parametrize(
    ("schedule", "epochs", "stage"),
    [
        (multistep((60, 90), 0.1), 120, 60),
        (constant(), 7, 7),
        (cosine(10), 10, 5),
        (onecycle(10, rise=0.3), 10, 7),  # the peak after 3, half of it half-way down
        (warmup(cosine(1), 0.5), 1, 1),  # its one rate is 0
    ],
)
def test_the_first_stage_of_learning_rates(schedule: Schedule, epochs: int, stage: int) -> None:
    assert first_stage([0.01 * schedule(epoch) for epoch in range(epochs)]) == stage


def test_an_only_epoch_that_ends_with_no_learning_rate_left_is_the_first_stage() -> None:
    assert first_stage([0.0]) == 1


def epoch(number: int, lr: float, accuracy: float | None = None) -> dict[str, object]:
    fields: dict[str, object] = {"epoch": number, "lr": lr, "loss": 1.0}
    return fields if accuracy is None else {**fields, "train_sample": accuracy}


def test_the_mean_over_the_first_stage_of_the_last_training_that_was_evaluated() -> None:
    regularization = [epoch(1, 0.001), epoch(2, 0.001)]
    first = [epoch(1, 0.1, 10.0), epoch(2, 0.1, 20.0)]
    last = [epoch(1, 0.1, 50.0), epoch(2, 0.1, 60.0), epoch(3, 0.01, 90.0)]
    record = trainability_record([regularization, first, last, regularization])
    assert record is not None
    assert (record["accuracy"], record["epochs"]) == (55.0, 2)
    assert "sample of the training images" in record["definition"]
    held_out = trainability_record([[{**epoch(1, 0.1), "held_out": 1.0}]])
    assert held_out is not None
    assert "held-out split" in held_out["definition"]
    assert trainability_record([regularization]) is None
    assert trainability_record([]) is None


def test_curves_keep_finite_values_and_put_trainings_one_after_the_other() -> None:
    trainings = [
        [{"epoch": 1, "loss": 2.0, "lr": 0.1}, {"epoch": 2, "loss": float("nan"), "lr": 0.1, "stop_value": 0.04}],
        [{"epoch": 1, "loss": 1.0, "lr": True}],
        [{"epoch": 1, "held_out": 50}],
    ]
    assert epoch_curves(trainings) == {
        "loss": [(1, 2.0), (3, 1.0)],
        "lr": [(1, 0.1), (2, 0.1)],
        "stop_value": [(2, 0.04)],
        "held_out": [(4, 50.0)],
        "train_sample": [],
    }


@pytest.mark.parametrize("first", [0, 1])
def test_a_second_training_goes_on_after_the_first(first: int) -> None:
    trainings = [[{"epoch": first + index, "loss": float(loss + index)} for index in range(2)] for loss in (0, 2)]
    assert epoch_curves(trainings)["loss"] == [(first + index, float(index)) for index in range(4)]


def test_the_last_stable_learning_rate_counts(trained) -> None:
    (last,) = trained.result.state.trainings
    assert last.stable_lr == StableLearningRate(0.042, 90.4, 32)

    def stable_lr(*trainings: TrainingHistory) -> StableLearningRate | None:
        return replace(trained.result, state=replace(trained.result.state, trainings=trainings)).stable_lr

    first, without = (replace(last, stable_lr=rate) for rate in (StableLearningRate(0.1, 90.4, 32), None))
    assert stable_lr(first, last, without) == last.stable_lr
    assert stable_lr(last, first) == first.stable_lr
    assert stable_lr(without) is None
    assert stable_lr() is None
