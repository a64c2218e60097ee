"""What blocks cost, on an invented device, and when dropping them reaches a target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.graph.residual_blocks import residual_blocks
from compressor.recipe import read_recipe
from compressor.recipe.recipe_config import MOST_MACS_OF_TRIALS
from compressor.run_log import RunLog
from compressor.steps.block_trials import BlockTrials
from compressor.steps.context import Context
from compressor.steps.drop_blocks import DropBlocks
from compressor.steps.run import initial_state
from compressor.steps.state import PruningState
from compressor.training.training_checkpoint import Checkpoints


class Wide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.relu(self.inner(x)))


class Device:
    """One millisecond for every weight of a linear layer, and ten for the rest."""

    rounds = 8

    def __init__(self) -> None:
        self.timed = 0

    @contextmanager
    def open(self) -> Iterator[Device]:
        yield self

    def time(self, module: nn.Module) -> float:
        self.timed += 1
        return 10.0 + sum(p.numel() for p in module.parameters() if p.ndim > 1)


class Samples:
    task = batch_dims = num_classes = None

    def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Tensor]:
        return iter(torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def state() -> PruningState:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), Wide(8), Wide(2), Wide(8), nn.Linear(4, 3)).eval()
    spec = ModelSpec("toy", (ModelInput((4,)),), 3)
    return initial_state(LoadedModel(module, spec, "toy", untrained=True), context(None), trained=False)


def context(device: Device | None, data: object = None) -> Context:
    return Context(data, 0, RunLog(), Checkpoints(None, ""), latency_probe=device)  # type: ignore[arg-type]


def trials(state: PruningState, target: PruningTarget, device: Device | None = None) -> BlockTrials:
    blocks = residual_blocks(state.model.module, *state.example_inputs(2))
    return BlockTrials(state, context(device, Samples()), target, blocks)


def test_blocks_of_equal_shapes_are_timed_together(state: PruningState) -> None:
    """The dense model takes 10 + 16 + 64 + 16 + 64 + 12 = 182 ms, and 91 are allowed."""
    measured = trials(state, PruningTarget(latency=0.5), device := Device())
    assert measured.savings == pytest.approx({"1": 64.0, "2": 16.0, "3": 64.0})
    assert device.timed == 3  # dense, and without the blocks of each shape
    assert not measured.reaches_target(["1", "2"])  # 102 ms
    assert measured.reaches_target(["1", "3"])  # 54 ms


def test_without_a_latency_target_blocks_save_what_the_target_counts(state: PruningState) -> None:
    """172 multiply-adds; 16 + 4 + 64 + 12 + 16 + 6 + 64 + 12 + 12 + 3 = 209 parameters."""
    assert trials(state, PruningTarget(macs=0.5)).savings == {"1": 64.0, "2": 16.0, "3": 64.0}
    by_params = trials(state, PruningTarget(params=0.5))
    assert by_params.savings == {"1": 76.0, "2": 22.0, "3": 76.0}
    assert by_params.reaches_target(["1", "3"])
    assert not by_params.reaches_target(["1", "2"])  # 111 of 209


def test_the_answers_differ_more_without_more_blocks(state: PruningState) -> None:
    measured = trials(state, PruningTarget(macs=0.5))
    assert measured.divergence([]) == pytest.approx(0, abs=1e-9)
    assert 0 < measured.divergence(["2"]) < measured.divergence(["1", "2", "3"])


@pytest.mark.parametrize("recipe", ["auto", "minutes"])
def test_shipped_recipes_try_blocks_for_latency_targets(recipe: str) -> None:
    def dropping(*overrides: str) -> list[DropBlocks]:
        steps = read_recipe(recipe, overrides).method_steps(1)
        return [step for step in steps if isinstance(step, DropBlocks)]

    (step,) = dropping("prune.target={latency: 50%}")
    assert step.drop == "auto"
    assert step.most_macs == MOST_MACS_OF_TRIALS
    for overrides in (
        ["prune.target={macs: 50%}"],
        ["prune.target={ratio: 50%}"],
        ["prune.target={latency: 50%}", "prune.blocks=null"],
    ):
        assert dropping(*overrides) == []
    (asked,) = dropping("prune.blocks={drop: auto}")
    assert asked.most_macs is None


def test_a_large_model_keeps_its_blocks_and_says_so(state: PruningState) -> None:
    around = context(None)
    assert DropBlocks("auto", PruningTarget(latency=0.5), most_macs=1.0).run(state, around) is state
    assert len(around.log.notes) == 1
