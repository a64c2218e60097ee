"""Going back to an earlier moment, under masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressor.core import LoadedModel, ModelSpec, one_image
from compressor.data.image_data import ImageData
from compressor.run_log import RunLog
from compressor.steps.base import Step
from compressor.steps.context import Context
from compressor.steps.finetune_segment import FinetuneSegment
from compressor.steps.rewind import RewindWeights, SaveWeights
from compressor.steps.run import initial_state, run_step
from compressor.steps.state import PruningState
from compressor.steps.train import Train
from compressor.training.schedules import cosine
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import few_digits

TRAIN = Train(32, OptimizerSettings("sgd", lr=0.05, weight_decay=1e-3), cosine(3), epochs=3, precision="fp32")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return few_digits(96)


@pytest.fixture
def around(digits: ImageData, tmp_path: Path) -> Context:
    return Context(digits, 0, RunLog(), Checkpoints(tmp_path, "test"))


def start(around: Context) -> PruningState:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )
    return initial_state(LoadedModel(module.eval(), ModelSpec("net.py:net", one_image((1, 8, 8)), 10), "net"), around)


def state(work: PruningState) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in work.model.module.state_dict().items()}


def performed(work: PruningState, around: Context, *steps: Step) -> PruningState:
    for step in steps:
        work = run_step(step, work, around)
    return work


def test_a_training_that_is_rewound_and_repeated_ends_the_same(around: Context) -> None:
    early, rest = TRAIN.segment(0, 1), replace(TRAIN.segment(1, 3), stage="dense training")
    remembered = performed(start(around), around, early, SaveWeights())
    once = performed(remembered, around, rest)
    again = performed(once, around, RewindWeights(), rest)
    assert state(performed(once, around, RewindWeights())).keys() == state(remembered).keys()
    for name, each in state(performed(once, around, RewindWeights())).items():
        assert torch.equal(each, state(remembered)[name]), name
    for name, each in state(once).items():
        assert torch.equal(each, state(again)[name]), name
    assert any(not torch.equal(each, state(once)[name]) for name, each in state(remembered).items())


def test_masked_weights_stay_zero_and_the_others_are_those_remembered(around: Context) -> None:
    remembered = performed(start(around), around, TRAIN.segment(0, 1), SaveWeights())
    torch.manual_seed(1)
    masks = {name: torch.rand(state(remembered)[name].shape) > 0.7 for name in ("0.weight", "4.weight")}
    trained = replace(performed(remembered, around, TRAIN.segment(1, 3)), masks=masks)
    rewound = performed(trained, around, RewindWeights())
    for name, each in state(rewound).items():
        expected = state(remembered)[name] * masks.get(name, True)
        assert torch.equal(each, expected.to(each.dtype)), name
    done = state(performed(rewound, around, replace(TRAIN.segment(1, 3), stage="again")))
    for name, mask in masks.items():
        assert not done[name][~mask].any()
        assert done[name][mask].all()


def test_what_a_method_asks_of_the_retraining_takes_its_place() -> None:
    part = FinetuneSegment(2, 7, stage="dense training").of(replace(TRAIN, epochs=9, schedule=cosine(9), clip=1.5))
    assert (part.epochs, part.start_epoch, part.stage, part.clip) == (5, 2, "dense training", 1.5)
    assert part.schedule(1.5) == cosine(9)(3.5)
    assert FinetuneSegment(4).of(replace(TRAIN, epochs=9)).epochs == 5
