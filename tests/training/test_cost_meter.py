"""What a training takes is measured on trainings whose cost is put there on purpose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import STEP, Halt, Interrupted, quiet, toy_data, toy_net

from compressor.training import cost_meter as meter
from compressor.training.cost_meter import CostMeter, training_cost
from compressor.training.loop import train
from compressor.training.train_state import TrainProgress
from compressor.training.training_checkpoint import TrainingCheckpoint

LARGE = 64 << 20  # bytes
MORE = 256 << 20
BATCHES = 5  # of an epoch: 44 images in batches of 8


class Costly:
    """A constraint that takes one joule and `LARGE` bytes in every iteration."""

    def __init__(self, module: nn.Module, total: int, *, spend: Callable[[], None], octets: int) -> None:
        self._spend, self._octets = spend, octets

    def after_backward(self, iteration: int) -> None:
        self._spend()
        torch.ones(self._octets, dtype=torch.uint8)

    def after_step(self, iteration: int) -> None:
        pass


class Battery:
    def __init__(self) -> None:
        self.used = 1000.0

    def spend(self, joules: float = 1.0) -> None:
        self.used += joules

    def __call__(self) -> float:
        return self.used


def test_energy_is_that_of_the_batches_epoch_by_epoch() -> None:
    battery = Battery()

    def between_epochs(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch":
            battery.spend(500)

    constraints = [partial(Costly, spend=battery.spend, octets=1)]
    done = train(toy_net(), toy_data(), STEP, seed=0, emit=between_epochs, constraints=constraints, joules=battery)
    assert [each["energy_j"] for each in done.records] == [BATCHES] * 3
    assert done.cost.energy_j == 3 * BATCHES


def test_what_was_spent_before_an_interruption_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingCheckpoint, "is_due", True)
    battery, file, data = Battery(), tmp_path / "state.pt", toy_data()
    costly = partial(Costly, spend=battery.spend, octets=1)
    how = {"seed": 0, "emit": quiet, "joules": battery}
    halt = partial(Halt, at=BATCHES + 2)
    with pytest.raises(Interrupted):
        train(toy_net(), data, STEP, checkpoint=TrainingCheckpoint(file, "a"), constraints=[costly, halt], **how)
    done = train(toy_net(), data, STEP, checkpoint=TrainingCheckpoint(file, "a"), constraints=[costly], **how)
    assert done.cost.energy_j == 3 * BATCHES  # and not what the iteration took that has to be done again
    assert done.cost.epochs == 3
    again = train(toy_net(), data, STEP, checkpoint=TrainingCheckpoint(file, "a"), constraints=[costly], **how)
    assert again.cost == done.cost  # a training that is over costs nothing, and is not forgotten


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([5.0, 5.0, 7.5], 2.5),
        ([5.0, 9.0, 9.5], 0.5),  # what was used before it began is not asked for
        ([5.0, 5.0, 1.0], None),  # it started over
        ([None, None, None], None),
        ([5.0, 5.0, None], None),
        ([None, None, 5.0], None),
    ],
)
def test_a_meter_that_starts_over_or_is_missing_says_nothing(
    readings: list[float | None], expected: float | None
) -> None:
    told = iter(readings)
    watching = CostMeter(toy_net(), torch.device("cpu"), lambda: next(told))
    watching.begin()
    assert watching.energy() == expected


def test_one_epoch_without_a_meter_leaves_the_sum_unknown() -> None:
    readings: Iterator[float | None] = chain([0.0, 0.0, 1.0, 1.0, 2.0], repeat(None))
    done = train(toy_net(), toy_data(), STEP, seed=0, emit=quiet, joules=lambda: next(readings))
    assert [each.get("energy_j") for each in done.records] == [1.0, 1.0, None]
    assert done.cost.energy_j is None


def test_the_time_of_a_batch_is_the_median_of_the_medians() -> None:
    progress = TrainProgress()
    for times in ([1.0, 2.0, 9.0], [4.0, 4.0, 5.0], [3.0, 3.0, 30.0]):
        for seconds in times:
            progress.add(0.5, 8, seconds)
        progress.add_energy(None)
        progress.close_epoch(0.1, {})
    assert [each["batch_ms"] for each in progress.records] == [2000, 4000, 3000]
    assert [each["seconds"] for each in progress.records] == [12, 13, 36]
    net = toy_net()
    found = training_cost(replace(STEP, stage="retraining"), net, torch.device("cpu"), progress.records)
    assert (found.batch_ms, found.seconds, found.epochs, found.batch_size) == (3000, 61, 3, 8)
    assert found.params == 3 * 6 * 9 + 2 * 6 + 216 * 4 + 4
    assert (found.peak_bytes, found.energy_j) == (None, None)


def test_no_training_costs_nothing() -> None:
    found = train(toy_net(), toy_data(), replace(STEP, epochs=0), seed=0, emit=quiet).cost
    assert (found.seconds, found.epochs, found.batch_ms, found.peak_bytes) == (0, 0, None, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
@pytest.mark.parametrize("before", [0, MORE])  # taken and freed by what was done earlier
def test_the_peak_is_that_of_the_batches(before: int) -> None:
    def between_epochs(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch":
            torch.ones(MORE, dtype=torch.uint8)

    def peak(octets: int) -> float:
        torch.ones(before, dtype=torch.uint8)
        constraints = [partial(Costly, spend=lambda: None, octets=octets)]
        done = train(toy_net(), toy_data(), STEP, seed=0, emit=between_epochs, constraints=constraints)
        assert [set(each) & {"peak_bytes"} for each in done.records] == [{"peak_bytes"}, set(), set()]
        assert done.cost.peak_bytes is not None
        return done.cost.peak_bytes

    peak(1)  # what torch sets up for the first training of a process
    least = min(peak(LARGE) for _ in range(3))  # a fragmented heap truly takes another block
    assert 0.9 * LARGE < least - peak(1) < 1.3 * LARGE


def test_a_gpu_is_asked_for_what_was_taken_since(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"now": 700, "most": 5000}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: taken.update(most=taken["now"]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: taken["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: taken["most"])
    watching = CostMeter(toy_net(), torch.device("cuda", 0), lambda: None)
    taken.update(now=900, most=1900)
    assert watching.first_peak() == {"peak_bytes": 1200}
    assert watching.first_peak() == {}, "an evaluation may have taken more meanwhile"


@pytest.mark.parametrize("place", ["nowhere", "."])  # no /proc at all, and one without what is asked for
def test_a_system_that_does_not_tell_the_peak(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("VmHWM:\t  100 kB\n")
    monkeypatch.setattr(meter, "PROCESS", tmp_path / place)
    done = train(toy_net(), toy_data(), replace(STEP, epochs=1), seed=0, emit=quiet)
    assert done.cost.peak_bytes is None
    assert done.cost.batch_ms > 0
