"""Every method passes the same checks; a new one inherits them by existing."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import ChannelGroup
from compressor.criteria.base import ChannelCriterion, ScoringContext
from compressor.criteria.batchnorm_gate import BatchNormGateCriterion
from compressor.criteria.norm_scale import NormScaleCriterion
from compressor.criteria.random_scores import random_scores
from compressor.graph.cost import count_cost
from compressor.methods import Method, SettingsGroup, methods
from compressor.recipe.method_block import method_block, method_from_block
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.steps.train import Train
from compressor.surgery.analysis import analyze
from compressor.surgery.permutation import permute_channels
from tests.training.toys import toy_data

if TYPE_CHECKING:
    from compressor.core import FloatArray

TARGET = PruningTarget(ratio=0.5)


@pytest.fixture(params=methods().values(), ids=methods().keys())
def method(request: pytest.FixtureRequest) -> type[Method]:
    return request.param


@pytest.fixture(
    params=[method for method in methods().values() if not method.unstructured], ids=lambda method: method.name
)
def structured(request: pytest.FixtureRequest) -> type[Method]:
    return request.param


def pico() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    ).eval()  # fmt: skip


def score(criterion: ChannelCriterion, module: nn.Module, groups: Sequence[ChannelGroup]) -> Mapping[str, FloatArray]:
    return criterion.score_channels(module, groups, ScoringContext(toy_data()))


def test_steps_choose_before_they_remove(structured: type[Method]) -> None:
    steps = structured().steps(TARGET)
    kinds = [type(step) for step in steps]
    assert kinds.index(SelectChannels) < kinds.index(RemoveChannels)
    last = len(kinds) - 1 - kinds[::-1].index(RemoveChannels)
    assert Train not in kinds[last:], "retraining is the recipe's"
    assert [step.last for step in steps if isinstance(step, RemoveChannels)] == [False] * (
        kinds.count(RemoveChannels) - 1
    ) + [True]


def test_settings_survive_a_round_trip_and_refuse_unknown_keys(method: type[Method]) -> None:
    settings = method()
    block = method_block(method)
    groups = [type(field.default) for field in method.model_fields.values() if isinstance(field.default, SettingsGroup)]
    own = len(method.model_fields) - len(groups)
    assert len(block.model_fields) == own + sum(len(group.model_fields) for group in groups), "no key has two meanings"
    assert method_from_block(method, block()) == settings
    assert block.model_validate(block().model_dump()) == block()
    with pytest.raises(ValidationError) as caught:
        block.model_validate({"unknown": 1})
    assert [(error["type"], error["loc"]) for error in caught.value.errors()] == [("extra_forbidden", ("unknown",))]


def test_the_paper_is_cited_where_the_method_is(method: type[Method]) -> None:
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", sys.modules[method.__module__].__doc__ or "")


def test_the_same_model_gives_the_same_plan_and_every_group_keeps_a_channel(structured: type[Method]) -> None:
    module, inputs = pico(), torch.randn(1, 3, 8, 8)
    structure = analyze(module, inputs, name="pico")
    step = [step for step in structured().steps(TARGET) if isinstance(step, SelectChannels)][-1]
    plans, of_norms = [], isinstance(step.criterion, NormScaleCriterion | BatchNormGateCriterion)
    names = {"0"} if of_norms else {"0", "3"}
    for _ in range(2):
        scores = score(step.criterion, module, structure.groups)
        cost = count_cost(module, inputs)
        plans.append(select_channels(structure.groups, scores, step.target, structure.cost, cost)[0])
    assert plans[0].kept.keys() == plans[1].kept.keys() == scores.keys() == names
    for name, kept in plans[0].kept.items():
        assert (kept == plans[1].kept[name]).all()
        assert kept.any()


def test_scores_follow_a_permutation_of_the_filters(structured: type[Method]) -> None:
    step = [step for step in structured().steps(TARGET) if isinstance(step, SelectChannels)][-1]
    module = pico()
    groups = analyze(module, torch.randn(1, 3, 8, 8), name="pico").groups
    orders = {"0": np.array([3, 1, 5, 7, 0, 2, 6, 4]), "3": np.array([3, 1, 5, 0, 2, 4])}
    before = score(step.criterion, module, groups)
    after = score(step.criterion, permute_channels(module, groups, orders), groups)
    for name, scores_C in before.items():
        expected = scores_C if step.criterion is random_scores else scores_C[orders[name]]
        np.testing.assert_allclose(after[name], expected, rtol=1e-3, atol=1e-5 * np.abs(scores_C).max())
