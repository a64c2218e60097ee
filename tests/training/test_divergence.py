"""A training that diverged may go on with another learning rate; nothing else that differs is taken for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from failures import raises_error
from toys import STEP, Halt, Interrupted, quiet, same, toy_data, toy_net

from compressor.core import EventSink
from compressor.errors import RecipeError, VerificationFailed
from compressor.steps.train import Train
from compressor.training.loop import train
from compressor.training.schedules import constant
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_checkpoint import TrainingCheckpoint

KEY = "retrain.optimizer.lr"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a training leaves its state, which is written in every iteration."""
    monkeypatch.setattr("compressor.training.training_checkpoint.MIN_INTERVAL", -math.inf)
    monkeypatch.setattr("compressor.training.training_checkpoint.MAX_SHARE", math.inf)
    return tmp_path / "states" / "3"


def at(lr: float) -> Train:
    return replace(STEP, optimizer=OptimizerSettings("sgd", lr, 0.9), schedule=constant())


def diverged(file: Path, lr: float, identity: str = "a") -> None:
    """What a run leaves that diverges at this rate."""
    checkpoint = TrainingCheckpoint(file, identity, lr, KEY)
    with raises_error(VerificationFailed, "training/diverged"):
        train(toy_net(), toy_data(), at(lr), seed=2, emit=quiet, checkpoint=checkpoint)
    checkpoint.mark_diverged()


def listening(notes: list[str]) -> EventSink:
    def emit(event: str, fields: Mapping[str, object]) -> None:
        if event == "note":
            notes.append(str(fields["text"]))

    return emit


def test_it_starts_anew_with_another_rate_as_if_it_had_always_had_that(file: Path) -> None:
    diverged(file, 1e30)
    fresh, again, notes = toy_net(), toy_net(), list[str]()
    expected = train(fresh, toy_data(), at(0.01), seed=2, emit=quiet)
    interrupted = partial(train, toy_net(), toy_data(), at(0.01), seed=2, constraints=[partial(Halt, at=7)])
    with pytest.raises(Interrupted):
        interrupted(emit=listening(notes), checkpoint=TrainingCheckpoint(file, "a", 0.01, KEY))
    assert notes == [f"training diverged with {KEY}=1e+30; it starts again with 0.01"]
    checkpoint = TrainingCheckpoint(file, "a", 0.01, KEY)
    done = train(again, toy_data(), at(0.01), seed=2, emit=listening(notes), checkpoint=checkpoint)
    assert len(notes) == 1, "the state of the new rate is continued like any other"
    assert same(again, fresh)
    epochs = [[(epoch["epoch"], epoch["lr"], epoch["loss"]) for epoch in run.records] for run in (done, expected)]
    assert epochs[0] == epochs[1], "epochs of the training that diverged count no more"
    assert [number for number, *_ in epochs[0]] == [1, 2, 3]


def test_with_the_same_rate_it_goes_on_where_it_was(file: Path) -> None:
    diverged(file, 1e30)
    found = TrainingCheckpoint(file, "a", 1e30, KEY).restore(quiet)
    assert found is not None
    assert found["progress"]["iterations"] >= 1


def test_one_that_diverged_before_anything_was_saved_is_marked_too(tmp_path: Path) -> None:
    TrainingCheckpoint(tmp_path / "states" / "1", "a", 1e30, KEY).mark_diverged()
    assert TrainingCheckpoint(tmp_path / "states" / "1", "a", 1e30, KEY).restore(quiet) is None
    assert TrainingCheckpoint(tmp_path / "states" / "1", "a", 0.1, KEY).restore(quiet) is None
    with raises_error(RecipeError, "resume/other-run"):
        TrainingCheckpoint(tmp_path / "states" / "1", "b", 0.1, KEY).restore(quiet)


def test_the_state_of_the_rate_before_is_not_taken_for_that_of_the_next(file: Path) -> None:
    """The second one diverges before it has saved anything."""
    diverged(file, 1e30)
    TrainingCheckpoint(file, "a", 1e20, KEY).mark_diverged()
    assert TrainingCheckpoint(file, "a", 1e20, KEY).restore(quiet) is None


def test_another_rate_of_a_training_that_has_not_diverged_is_refused(file: Path) -> None:
    train(toy_net(), toy_data(), at(0.05), seed=2, emit=quiet, checkpoint=TrainingCheckpoint(file, "a", 0.05, KEY))
    before = file.read_bytes()
    with raises_error(RecipeError, "resume/other-learning-rate", f"{KEY}=0.05", "0.01"):
        TrainingCheckpoint(file, "a", 0.01, KEY).restore(quiet)
    assert file.read_bytes() == before


def test_another_run_is_refused_after_a_divergence_as_well(file: Path) -> None:
    diverged(file, 1e30)
    before = file.read_bytes()
    with raises_error(RecipeError, "resume/other-run"):
        TrainingCheckpoint(file, "b", 0.01, KEY).restore(quiet)
    assert file.read_bytes() == before


def test_what_ended_before_with_a_rate_of_the_same_name_is_kept(file: Path) -> None:
    earlier, other = file.with_name("1"), file.with_name("2")
    for each, key in ((earlier, KEY), (other, "prune.tpp.lr")):
        train(toy_net(), toy_data(), at(0.05), seed=2, emit=quiet, checkpoint=TrainingCheckpoint(each, "a", 0.05, key))
    TrainingCheckpoint(file, "a", 0.05, KEY).mark_diverged()
    notes: list[str] = []
    found = TrainingCheckpoint(earlier, "a", 0.01, KEY).restore(listening(notes))
    assert found is not None
    assert found["progress"]["iterations"] == 15
    assert notes == [f"a training that ended with {KEY}=0.05 is kept"]
    with raises_error(RecipeError, "resume/other-learning-rate"):
        TrainingCheckpoint(other, "a", 0.01, "prune.tpp.lr").restore(quiet)
    TrainingCheckpoint(file, "a", 0.01, KEY).save(dict)  # what diverged has begun anew
    assert TrainingCheckpoint(earlier, "a", 0.01, KEY).restore(quiet) is not None


def test_weights_that_the_last_iteration_of_an_epoch_has_spoilt(tmp_path: Path) -> None:
    file = tmp_path / "states" / "1"
    told: list[tuple[object, object]] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        if event == "diverged":
            told.append((fields["epoch"], fields["lr"]))

    with raises_error(VerificationFailed, "training/diverged", "epoch 1, its end", "not finite"):
        train(toy_net(), toy_data(8), at(1e38), seed=0, emit=emit, checkpoint=TrainingCheckpoint(file, "a", 1e38, KEY))
    assert told == [(1, 1e38)]
    assert not file.exists(), "what is spoilt is not saved"


def test_what_training_cost_is_told_at_its_end(file: Path) -> None:
    told: list[Mapping[str, object]] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        if event == "trained":
            told.append(fields)

    checkpoint = TrainingCheckpoint(file, "a", 0.05, KEY)
    train(toy_net(), toy_data(), at(0.05), seed=2, emit=emit, checkpoint=checkpoint)
    ((found),) = told
    assert found["written"] == checkpoint.written == 17, (
        "after each of 15 iterations but the last, and after each of 3 epochs"
    )
    assert 0 < checkpoint.seconds == found["writing_seconds"] < float(str(found["seconds"]))
    assert torch.load(file, weights_only=True)["state"]["progress"]["iterations"] == 15
