"""Every method that masks single weights passes the same checks; a new one inherits them by existing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from compressor.budget.layer_rules import LayerRule
from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelSpec, one_image
from compressor.methods import Method, methods
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.finetune_segment import FinetuneSegment
from compressor.steps.mask_unstructured import MaskUnstructured
from compressor.steps.remove_dead_channels import RemoveDeadChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.train import Train
from compressor.training.training_checkpoint import Checkpoints
from tests.methods.test_contract import pico
from tests.training.toys import toy_data


@pytest.fixture(params=[method for method in methods().values() if method.unstructured], ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> type[Method]:
    return request.param


def test_masks_reach_the_target_and_dead_channels_go_last(method: type[Method]) -> None:
    settings = method()
    steps = settings.steps(PruningTarget(weights=0.05, rules=(LayerRule("0", freeze=True),)))
    masks = [step for step in steps if isinstance(step, MaskUnstructured)]
    assert masks[-1].keep[-1] == 0.05
    assert all(step.rules for step in masks)
    assert all(a >= b for step in masks for a, b in itertools.pairwise(step.keep)), "each round leaves less"
    assert settings.finish() == (RemoveDeadChannels(),)


def test_the_same_seed_masks_the_same_weights_and_every_layer_keeps_one(method: type[Method], tmp_path: Path) -> None:
    spec = ModelSpec("toy", one_image((3, 8, 8)))
    context = Context(toy_data(40), 0, RunLog(), Checkpoints(tmp_path, "test"))
    masks = []
    for _ in range(2):
        state = initial_state(LoadedModel(pico(), spec, "pico"), context)
        for step in method().steps(PruningTarget(weights=0.2)):
            if not isinstance(step, Train | FinetuneSegment):
                state = run_step(step, state, context)
        masks.append(state.masks)
    assert masks[0].keys() == masks[1].keys() == {"0.weight", "3.weight", "6.weight"}
    assert sum(int(mask.sum()) for mask in masks[0].values()) == state.baseline.cost.weights // 5
    for name, mask in masks[0].items():
        assert torch.equal(mask, masks[1][name])
        assert mask.any()
