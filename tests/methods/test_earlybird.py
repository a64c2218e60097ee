"""Early-bird tickets: the training until masks settle, and the choice by scales."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import Freeze, PrunePlan
from compressor.criteria.norm_scale import NormScaleCriterion
from compressor.errors import RecipeError
from compressor.methods.earlybird import EarlyBird
from compressor.models.cifar import cifar_resnet
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.steps.train import Train
from compressor.surgery.analysis import analyze
from compressor.training.penalty_terms import l1_norm
from compressor.training.stopping_rules import early_bird
from compressor.training.train_settings import OptimizerSettings


def test_as_published() -> None:
    train, choice, remove = EarlyBird().steps(PruningTarget(ratio=0.3, scope="global"))
    assert isinstance(train, Train)
    assert train.optimizer == OptimizerSettings("sgd", 0.1, momentum=0.9, weight_decay=1e-4)
    assert (train.batch_size, train.clip, train.counts_toward_retraining) == (256, None, True)
    assert train.stop is not None
    assert isinstance(train.stop.rule, partial)
    assert train.stop.rule.func is early_bird
    assert train.stop.rule.keywords == {"removed": 0.3, "masks": 5, "distance": 0.1}
    assert train.penalty is not None
    (term,) = train.penalty.terms
    assert (term.gradient, term.applies_to, term.strength(7, 10)) == (l1_norm, "norm_scales", 1e-4)
    assert choice == SelectChannels(NormScaleCriterion(), PruningTarget(ratio=0.3, scope="global"))
    assert remove == RemoveChannels()


def test_masks_need_a_share() -> None:
    with pytest.raises(RecipeError) as caught:
        EarlyBird().steps(PruningTarget(latency_ms=3.0))
    assert "prune.earlybird.ticket_ratio" in str(caught.value)
    EarlyBird(ticket_ratio=0.4).steps(PruningTarget(latency_ms=3.0))


def test_one_mask_has_none_to_be_compared_with() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        EarlyBird(masks=1)


def test_channels_are_scored_by_what_scales_them() -> None:
    """A group that several layers write has the mean over its normalisations; one that none scales stays whole."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(5, 2),
    ).eval()  # fmt: skip
    scale = torch.tensor([0.3, -0.9, 0.1, 0.5])
    with torch.no_grad():
        module[1].weight.copy_(scale)
    structure = analyze(module, torch.randn(1, 3, 8, 8), name="net")
    graded = NormScaleCriterion().score_channels(module, structure.groups)
    assert graded.keys() == {"0"}
    np.testing.assert_allclose(graded["0"], scale.abs().double().numpy())
    plan, groups = select_channels(
        structure.groups, graded, PruningTarget(ratio=0.5), structure.cost, structure.cost.of(PrunePlan({}))
    )
    assert {name: kept.tolist() for name, kept in plan.kept.items()} == {"0": [False, True, False, True]}
    why = Freeze("criterion", "no score: nothing scales its channels")
    assert {group.name: group.frozen for group in groups}["3"] == why


def test_shared_channels_have_the_mean_of_their_scales() -> None:
    module = cifar_resnet("resnet8b").eval()
    structure = analyze(module, torch.randn(1, 3, 32, 32), name="resnet8b")
    norms = {name: norm for name, norm in module.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    with torch.no_grad():
        for norm in norms.values():
            norm.weight.uniform_(-1, 1)
    graded = NormScaleCriterion().score_channels(module, structure.groups)
    for group in (group for group in structure.groups if group.frozen is None):
        scales = {slot.tensor for slot in group.slots if slot.tensor.removesuffix(".weight") in norms}
        expected = torch.stack([module.get_parameter(name).abs().double() for name in scales]).mean(0)
        np.testing.assert_allclose(graded[group.name], expected.detach().numpy())
    assert any(len(group.writers()) > 1 for group in structure.groups if group.name in graded)
