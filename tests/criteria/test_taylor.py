"""Taylor-FO: the square is inside the sum over batches, and the recipe chooses it by name."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.criteria import channel_criteria
from compressor.criteria.base import ScoringContext
from compressor.criteria.taylor import TaylorFO
from compressor.errors import RecipeError
from compressor.recipe import read_recipe
from compressor.steps.select_channels import SelectChannels
from compressor.surgery.analysis import analyze
from tests.training.toys import toy_data


def test_scores_are_sums_over_batches_of_squared_sums_over_a_channels_weights() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()
    groups = analyze(module, torch.randn(1, 3, 8, 8), name="toy").groups
    data, expected, of_sums = toy_data(40), np.zeros(6), np.zeros(6)
    for images, targets in islice(data.train_batches(8, epoch=0, seed=3), 3):
        module.zero_grad()
        nn.functional.cross_entropy(module(images), targets).backward()
        weight, bias = module[0].weight, module[0].bias
        sums = ((weight * weight.grad).flatten(1).sum(1) + bias * bias.grad).detach().double().numpy()
        expected, of_sums = expected + sums**2, of_sums + sums
    context = ScoringContext(data, seed=3)
    scores = TaylorFO(batches=3, batch_size=8).score_channels(module, groups, context)
    np.testing.assert_allclose(scores["0"], expected, rtol=1e-4)
    assert not np.allclose(expected, of_sums**2, rtol=0.1), "the square of the sum over batches is another score"


@pytest.mark.parametrize("name", ["l1", "taylor", "bn_scale", "random"])
def test_a_recipe_chooses_the_criterion_of_l1(name: str) -> None:
    recipe = read_recipe("l1", [f"prune.criterion={name}"])
    (step,) = (step for step in recipe.method_steps(1) if isinstance(step, SelectChannels))
    assert step.criterion is channel_criteria()[name]
    assert recipe.needs_data == (name == "taylor")


def test_criteria_that_are_not_there_or_not_for_the_method(tmp_path: Path) -> None:
    with raises_error(RecipeError, "recipe/not-allowed", "prune.criterion", "'tailor'"):
        read_recipe("l1", ["prune.criterion=tailor"])
    with raises_error(RecipeError, "recipe/not-allowed", "prune.criterion", "tpp"):
        read_recipe("tpp", ["prune.criterion=taylor"])
