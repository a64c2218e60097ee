"""A criterion that no module of the package knows selects channels and weights: the protocols are all it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from torch import Tensor, nn

from compressor.budget.target import PruningTarget
from compressor.core import ChannelGroup, LoadedModel, ModelSpec, one_image
from compressor.criteria._aggregate import mean_over_writers, sum_over_writers
from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext
from compressor.criteria.gradient import layer_parameters
from compressor.criteria.random_scores import random_scores
from compressor.errors import RecipeError
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.mask_unstructured import MaskUnstructured
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import Shortcut, toy_data

if TYPE_CHECKING:
    from compressor.core import FloatArray


@dataclass(frozen=True)
class SquaredTaylor:
    """`sum_b (w dL_b/dw)^2`: the square is inside each batch, so no formula of summed gradients gives it."""

    name: ClassVar[str] = "squared taylor"
    needs_data: ClassVar[bool] = True

    def score_weights(
        self, module: nn.Module, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor],
        context: ScoringContext = WEIGHTS_ONLY,
    ) -> Mapping[str, Tensor]:  # fmt: skip
        parameters = layer_parameters(module)
        scores = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        data = context.training_data
        for images, labels in data.train_batches(8, epoch=context.round, seed=context.seed):
            loss = data.task.loss(module(images), labels, 0.0)
            for name, gradient in zip(scores, torch.autograd.grad(loss, list(parameters.values())), strict=True):
                scores[name] += (parameters[name].detach() * gradient) ** 2
        return scores

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        return sum_over_writers(groups, self.score_weights(module, {}, {}, context), signed=True)


def context(tmp_path: Path, *, data: bool) -> Context:
    return Context(toy_data(40) if data else None, 0, RunLog(), Checkpoints(tmp_path, "test"))


def small() -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(Shortcut().eval(), ModelSpec("net", one_image((3, 8, 8)), 4), "net")


def test_channels_with_the_lowest_scores_are_removed(tmp_path: Path) -> None:
    model, run_context = small(), context(tmp_path, data=True)
    state = initial_state(model, run_context, trained=False)
    scores = SquaredTaylor().score_channels(model.module, state.groups, ScoringContext(run_context.data))
    state = run_step(SelectChannels(SquaredTaylor(), PruningTarget(ratio=0.25)), state, run_context)
    plan = state.selected
    for name, kept_C in plan.kept.items():
        assert scores[name][~kept_C].max() < scores[name][kept_C].min()
    assert {name: int((~kept_C).sum()) for name, kept_C in plan.kept.items()} == {"stem": 3, "inner": 4}
    state = run_step(RemoveChannels(), state, run_context)
    assert state.steps == ("SelectChannels(squared taylor)", "RemoveChannels")


def test_weights_with_the_lowest_scores_are_masked(tmp_path: Path) -> None:
    run_context = context(tmp_path, data=True)
    state = initial_state(small(), run_context, trained=False)
    state = run_step(MaskUnstructured(SquaredTaylor(), (0.5,)), state, run_context)
    assert state.masked_weights == state.baseline.cost.weights // 2


def test_a_criterion_that_needs_data_is_refused_without(tmp_path: Path) -> None:
    run_context = context(tmp_path, data=False)
    state = initial_state(small(), run_context)
    for step in (SelectChannels(SquaredTaylor(), PruningTarget(ratio=0.25)), MaskUnstructured(SquaredTaylor(), (0.5,))):
        with pytest.raises(RecipeError) as caught:
            run_step(step, state, run_context)
        assert caught.value.exit_code == 2


def test_random_scores_are_those_of_the_seed_and_leave_the_generator_alone(tmp_path: Path) -> None:
    model = small()
    groups = initial_state(model, context(tmp_path, data=False)).groups
    torch.manual_seed(5)
    expected = mean_over_writers(model.module, groups, lambda rows_NK: rows_NK.new_empty(len(rows_NK)).uniform_())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    scores = random_scores.score_channels(model.module, groups, ScoringContext(seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: values.tolist() for name, values in scores.items()} == {
        name: values.tolist() for name, values in expected.items()
    }
