"""Every method passes the same checks; a new one inherits them by existing."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import ChannelGroup
from compressor.criteria.base import ChannelCriterion, ScoringContext
from compressor.graph.cost import count_cost
from compressor.methods import Method, SettingsGroup, methods
from compressor.recipe.method_block import method_block, method_from_block
from compressor.surgery.analysis import analyze
from tests.training.toys import toy_data

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
    for _ in range(2):
        scores = score(step.criterion, module, structure.groups)
        cost = count_cost(module, inputs)
        plans.append(select_channels(structure.groups, scores, step.target, structure.cost, cost)[0])
    assert {"0"} <= plans[0].kept.keys() == plans[1].kept.keys() == scores.keys() <= {"0", "3"}
    for name, kept in plans[0].kept.items():
        assert (kept == plans[1].kept[name]).all()
        assert kept.any()


def test_scores_follow_a_permutation_of_the_filters(structured: type[Method]) -> None:
    step = [step for step in structured().steps(TARGET) if isinstance(step, SelectChannels)][-1]
    rows, *slopes = torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    if isinstance(step.criterion, GradientCriterion):
        scores = step.criterion.value(rows, *slopes)
        assert torch.equal(scores[order], step.criterion.value(rows[order], *(slope[order] for slope in slopes)))
        return
    if isinstance(step.criterion, BatchNormGateCriterion):
        of_gates = (*rows.T[:2], *slopes[0].T[:2])
        shuffled = step.criterion.value(*(gate[order] for gate in of_gates))
        assert torch.equal(step.criterion.value(*of_gates)[order], shuffled)
        return
    criterion = step.criterion.value if isinstance(step.criterion, NormScaleCriterion) else step.criterion
    if criterion is random_filter_scores:
        torch.manual_seed(0)
        scores = random_filter_scores(rows)
        torch.manual_seed(0)
        assert torch.equal(scores, random_filter_scores(rows[order])), "weights have no say in it"
        return
    assert np.array_equal(criterion(rows)[order].numpy(), criterion(rows[order]).numpy())
