"""Trainability from events: the first stage of learning rates, and the last training."""

from __future__ import annotations

import pytest

from compressor.report.history import curves, first_stage, trainability_record
from compressor.training.schedules import constant, cosine, multistep, onecycle, warmup
from compressor.training.settings import Schedule


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
    fields: dict[str, object] = {"event": "epoch", "epoch": number, "lr": lr, "loss": 1.0}
    return fields if accuracy is None else {**fields, "train_sample": accuracy}


def test_the_mean_over_the_first_stage_of_the_last_training_that_was_evaluated() -> None:
    events = [
        epoch(1, 0.001), epoch(2, 0.001),  # regularisation, not evaluated
        epoch(1, 0.1, 10.0), epoch(2, 0.1, 20.0),
        {"event": "accuracy", "stage": "after retraining", "accuracy": 99.0},
        epoch(1, 0.1, 50.0), epoch(2, 0.1, 58.0), epoch(2, 0.1, 60.0), epoch(3, 0.01, 90.0),
    ]  # fmt: skip
    found = trainability_record(events)
    assert found is not None
    assert (found["accuracy"], found["epochs"]) == (55.0, 2)
    assert "top-1 accuracy on the sample of the training images" in found["definition"]
    held_out = trainability_record([{**epoch(1, 0.1), "held_out": 1.0}])
    assert held_out is not None
    assert "accuracy on the held-out split" in held_out["definition"]
    assert trainability_record(events[:2]) is None


def test_epochs_of_a_training_that_diverged_count_no_more() -> None:
    def told(*events: dict[str, object]) -> list[tuple[int, float]]:
        return curves(events)["lr"]

    first, failed = [epoch(1, 0.5), epoch(2, 0.5)], [epoch(1, 9.0), epoch(2, 9.0)]
    again = [epoch(1, 0.1), epoch(2, 0.1)]
    for late in (2, 3):
        end = {"event": "diverged", "epoch": late}
        assert told(*first, *failed[: late - 1], end, *again) == [(1, 0.5), (2, 0.5), (3, 0.1), (4, 0.1)]
        assert told(*failed[: late - 1], end, *again) == [(1, 0.1), (2, 0.1)]
    early: dict[str, object] = {"event": "diverged", "epoch": 1}
    assert told(*first, early, *again) == [(1, 0.5), (2, 0.5), (3, 0.1), (4, 0.1)], "the first training stays"
    assert told(*failed, {"event": "diverged", "epoch": 3}, epoch(3, 0.1)) == [(1, 9.0), (2, 9.0), (3, 0.1)]
