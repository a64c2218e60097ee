"""A training that a rule ends: when, with which weights, and the same after an interruption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import STEP, Halt, Interrupted, quiet, same, toy_data, toy_net

from compressor.training.distributed.local import train_with_processes
from compressor.training.early_stopping import EarlyStop, RuleState, StopDecision
from compressor.training.loop import train
from compressor.training.stopping_rules import lazy_regime
from compressor.training.training_checkpoint import TrainingCheckpoint

EPOCHS = 6


def after(memory: RuleState, epoch: int, weights: Mapping[str, Tensor], *, epochs: int) -> StopDecision:
    """Done after so many; remembers how often it was asked, and may spoil what it is shown."""
    asked = memory.get("asked", torch.zeros(())) + 1
    for each in weights.values():
        each.zero_()
    return StopDecision({"asked": asked}, epoch == epochs, asked.item(), epochs + 1.0)


def until(epochs: int) -> EarlyStop:
    return EarlyStop("enough", partial(after, epochs=epochs))


def test_it_ends_after_the_epoch_that_its_rule_is_done_with() -> None:
    stopped, whole, told = toy_net(), toy_net(), []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch":
            told.append((fields["epoch"], fields["epochs"], fields["stop_value"], fields["stop_limit"]))

    done = train(stopped, toy_data(), replace(STEP, epochs=EPOCHS, stop=until(2)), seed=0, emit=emit)
    assert told == [(1, EPOCHS, 2.0, 3.0), (2, EPOCHS, 3.0, 3.0)], "asked before the first epoch as well"
    assert done.stopped
    assert len(done.records) == 2
    train(whole, toy_data(), replace(STEP, epochs=2), seed=0, emit=quiet)
    assert same(stopped, whole)


@pytest.mark.parametrize(("epochs", "stopped", "records"), [(0, True, 0), (3, True, 3), (9, False, 3)])
def test_its_epochs_are_the_most_it_takes(epochs: int, stopped: bool, records: int) -> None:
    done = train(toy_net(), toy_data(), replace(STEP, stop=until(epochs)), seed=0, emit=quiet)
    assert (done.stopped, len(done.records)) == (stopped, records)


LAZY = replace(STEP, epochs=EPOCHS, stop=EarlyStop("lazy_regime", partial(lazy_regime, factor=0.6)))


@pytest.mark.parametrize("at", [3, 9, 12])
def test_an_interrupted_one_ends_where_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr("compressor.training.training_checkpoint.MIN_INTERVAL", -math.inf)
    monkeypatch.setattr("compressor.training.training_checkpoint.MAX_SHARE", math.inf)
    undisturbed, resumed = toy_net(), toy_net()
    expected = train(undisturbed, toy_data(), LAZY, seed=2, emit=quiet)
    assert expected.stopped
    assert 5 * len(expected.records) > at
    state = tmp_path / "state"
    with pytest.raises(Interrupted):
        train(
            toy_net(), toy_data(), LAZY, seed=2, emit=quiet, checkpoint=TrainingCheckpoint(state, "a"),
            constraints=[partial(Halt, at=at)],
        )  # fmt: skip
    done = train(resumed, toy_data(), LAZY, seed=2, emit=quiet, checkpoint=TrainingCheckpoint(state, "a"))
    assert same(resumed, undisturbed)
    numbers = [[(each["loss"], each.get("stop_value")) for each in run.records] for run in (done, expected)]
    assert numbers[0] == numbers[1]


def test_one_that_has_ended_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor.training.training_checkpoint.MAX_SHARE", 1e-9)  # too dear to write, but at the end
    first, second = toy_net(), toy_net()
    for module in (first, second):
        done = train(
            module, toy_data(), LAZY, seed=2, emit=quiet, checkpoint=TrainingCheckpoint(tmp_path / "state", "a"),
            constraints=[] if module is first else [partial(Halt, at=0)],
        )  # fmt: skip
    assert same(first, second)
    assert done.stopped


@pytest.mark.long
def test_several_processes_end_together() -> None:
    one, two = toy_net(0), toy_net(0)
    expected = train(one, toy_data(40, augmented=False), LAZY, seed=2, emit=quiet)
    found = train_with_processes(2)(two, toy_data(40, augmented=False), LAZY, seed=2, emit=quiet)
    assert expected.stopped
    assert found.stopped
    assert len(found.records) == len(expected.records)
