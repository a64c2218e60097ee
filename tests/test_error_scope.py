"""`scope: error`: widths with the least predicted divergence that meet every target, from samples without labels."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor.budget.error_allocation import allocate_by_error
from compressor.budget.greedy import Budget
from compressor.budget.target import PruningTarget
from compressor.core import ErrorCurve, ErrorCurves, LoadedModel, ModelSpec, one_image
from compressor.criteria import channel_criteria
from compressor.criteria.obs import BY_MAGNITUDE
from compressor.errors import DataError, RecipeError, TargetNotReached
from compressor.recipe import read_recipe
from compressor.recipe.data_location import locate_recipe_data
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.training.training_checkpoint import Checkpoints
from tests.criteria.unlabelled import unlabelled


class Blocks(nn.Module):
    """A stem, and two residual blocks of which the second adds a hundredth of what it computes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.first_out = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.second, self.second_out = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.second_out.weight.mul_(0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.first_out(torch.relu(self.first(x))))
        x = torch.relu(x + self.second_out(torch.relu(self.second(x))))
        return self.head(x.mean((2, 3)) * 20)


def start(tmp_path: Path, samples: int = 100) -> tuple[PruningState, Context]:
    model = LoadedModel(Blocks().eval(), ModelSpec("toy", one_image((3, 8, 8))), "toy")
    context = Context(unlabelled(torch.randn(samples, 3, 8, 8)), 0, RunLog(), Checkpoints(tmp_path, ""))
    return initial_state(model, context), context


def widths(state: PruningState) -> dict[str, int]:
    return {name: int(kept.sum()) for name, kept in state.selected.kept.items()}


@pytest.mark.parametrize("criterion", ["obs", "l1"])
def test_channels_that_hardly_matter_are_removed_first(tmp_path: Path, criterion: str) -> None:
    state, context = start(tmp_path)
    step = SelectChannels(channel_criteria()[criterion], PruningTarget(macs=0.6, scope="error"))
    selected = run_step(step, state, context, evaluates=False)
    kept = widths(selected)
    assert kept["second"] <= 3
    assert kept.get("first", 16) > 3 * kept["second"]
    assert selected.errors is not None
    curves = selected.errors.curves
    assert curves["second"].weighted[8] < 0.1 * curves["first"].weighted[8]
    slim = run_step(RemoveChannels(), selected, context, evaluates=False)
    assert slim.certificate is not None
    assert slim.certificate.ok


def test_several_targets_hold_together(tmp_path: Path) -> None:
    state, context = start(tmp_path)
    target = PruningTarget(macs=0.6, params=0.5, memory=0.8, scope="error", round_to=2)
    selected = run_step(SelectChannels(channel_criteria()["obs"], target), state, context, evaluates=False)
    assert selected.graph is not None
    cost, dense = selected.graph.cost.of(selected.selected), state.baseline.cost
    assert cost.macs <= 0.6 * dense.macs
    assert cost.params <= 0.5 * dense.params
    assert all(width % 2 == 0 for width in widths(selected).values())
    with raises_error(TargetNotReached, "target-not-reachable/beyond-maximum", "prune.target", "macs"):
        out_of_reach = PruningTarget(macs=0.001, scope="error")
        run_step(SelectChannels(channel_criteria()["obs"], out_of_reach), state, context, evaluates=False)


def test_a_ratio_is_taken_over_all_groups(tmp_path: Path) -> None:
    state, context = start(tmp_path)
    step = SelectChannels(channel_criteria()["obs"], PruningTarget(ratio=0.25, scope="error"))
    kept = widths(run_step(step, state, context, evaluates=False))
    assert sum(16 - kept.get(name, 16) for name in ("first", "second")) + 8 - kept.get("stem", 8) == 10
    assert kept["second"] < 8


def test_samples_are_needed_and_a_few_are_too_few(tmp_path: Path) -> None:
    recipe = read_recipe("l1", ["prune.scope=error"])
    with raises_error(RecipeError, "recipe/data-required", "data", "the recipe"):
        locate_recipe_data(recipe, None, required=True)
    state, context = start(tmp_path, samples=6)
    step = SelectChannels(channel_criteria()["obs"], PruningTarget(macs=0.6, scope="error"))
    with raises_error(DataError, "data/too-few-samples", "samples", "10"):
        run_step(step, state, context, evaluates=False)


def products(removed_MG: np.ndarray) -> np.ndarray:
    """Multiply-adds of a chain 3 - a - b - c - 2."""
    a, b, c = (np.array([8, 12, 6]) - removed_MG).T
    return np.asarray(3 * a + a * b + b * c + 2 * c, dtype=np.float64)


@pytest.mark.parametrize("seed", range(4))
def test_the_allocation_is_close_to_the_exhaustive_one_and_above_its_bound(seed: int) -> None:
    random = np.random.default_rng(seed)
    curves = [np.concatenate([[0.0], random.exponential(size=size - 1).cumsum() ** 1.5]) for size in (8, 12, 6)]
    full = float(products(np.zeros((1, 3), dtype=np.int64))[0])
    limit = Budget("macs", products, 0.4 * full, full)
    ones, zeros = np.ones(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    result = allocate_by_error(curves, zeros, np.ones(3, dtype=bool), ones, [limit], ones)
    plans = np.array(list(itertools.product(range(8), range(12), range(6))))
    fitting = plans[products(plans) <= limit.limit]
    best = min(sum(curve[k] for curve, k in zip(curves, plan, strict=True)) for plan in fitting)
    assert result.feasible
    assert products(result.removed_G[None])[0] <= limit.limit
    assert best <= result.error + 1e-9 <= 1.02 * best + 1e-9
    assert result.error * (1 - result.gap) <= best + 1e-9


def test_curves_predict_divergence_and_agreement() -> None:
    curve = ErrorCurve(np.array([1, 0, 2]), np.array([0.0, 0.1, 0.4]), sensitivity=2.0)
    errors = ErrorCurves({"a": curve}, samples=10, flips=0.5)
    assert errors.divergence({"a": 2, "b": 1}) == pytest.approx(0.8)
    assert errors.agreement(0.64) == pytest.approx(0.6)
    assert ErrorCurves({}).agreement(1.0) is None


def test_layers_behind_a_call_that_depends_on_values_are_compared_by_magnitude(tmp_path: Path) -> None:
    class Branching(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            if float(x.mean()) < 1e6:
                x = torch.relu(x + self.first_out(torch.relu(self.first(x))))
            return self.head(x.mean((2, 3)))

    model = LoadedModel(Branching().eval(), ModelSpec("toy", one_image((3, 8, 8))), "toy")
    context = Context(unlabelled(torch.randn(60, 3, 8, 8)), 0, RunLog(), Checkpoints(tmp_path, ""))
    state = initial_state(model, context)
    step = SelectChannels(channel_criteria()["obs"], PruningTarget(macs=0.6, scope="error"))
    selected = run_step(step, state, context, evaluates=False)
    assert selected.errors is not None
    assert selected.errors.curves["first"].note == BY_MAGNITUDE
    assert widths(selected)["first"] < 16
    assert selected.errors.curves["first"].sensitivity > 0
