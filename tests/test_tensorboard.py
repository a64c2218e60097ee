"""What TensorBoard is given to draw."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from failures import raises_error

from compressor.cli.tensorboard import tensorboard_sink
from compressor.errors import RecipeError

EPOCH = {"epoch": 2, "epochs": 3, "loss": 0.5, "lr": 0.01, "stage": "retraining", "accuracy": 81.25}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_number_of_an_epoch_is_drawn(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    heard: list[str] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        heard.append(event)

    with tensorboard_sink(emit, tmp_path) as both:
        both("stage", {"name": "Train"})
        both("epoch", EPOCH)
    assert heard == ["stage", "epoch"]
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    drawn = {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert drawn == {
        "retraining/loss": [(2, 0.5)],
        "retraining/lr": [(2, pytest.approx(0.01))],
        "retraining/accuracy": [(2, 81.25)],
    }


def test_without_tensorboard_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        raises_error(RecipeError, "usage/tensorboard-not-installed", "--tensorboard"),
        tensorboard_sink(print, tmp_path),
    ):
        pass


def test_nothing_is_added_unasked() -> None:
    with tensorboard_sink(print, None) as emit:
        assert emit is print
