"""What holds tensors beside the network is on the network's device, checked on the one that has no numbers, so that no
accelerator is needed. Backward passes, and copies back from a device, are out of its reach."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from toys import SGD, toy_net

from compressor.core import PrunedEntries
from compressor.tensors import tree_leaves
from compressor.training.constraints import FixedMaskConstraint, PenaltyConstraint
from compressor.training.optimizers import load_optimizer_state, make_optimizer
from compressor.training.penalty import Constraint, Penalty, PenaltyTerm
from compressor.training.penalty_terms import decay_pruned, gram_mean, group_lasso
from compressor.training.train_state import ema_weights

PULLS = (PenaltyTerm(decay_pruned, lambda at, all: 1.0), PenaltyTerm(gram_mean, lambda at, all: 1.0))
AFFINES = PenaltyTerm(decay_pruned, lambda at, all: 1.0, applies_to="norm_params")
LAYERS = PenaltyTerm(group_lasso, lambda at, all: 1.0, applies_to="all_layers")
PENALTY = Penalty("all", (*PULLS, AFFINES, LAYERS), zero_from=lambda place, places, all: 0)


@pytest.fixture
def elsewhere() -> nn.Module:
    """A network on another device, with gradients."""
    module = toy_net().to("meta")
    for each in module.parameters():
        each.grad = torch.ones_like(each)
    return module


def masks(module: nn.Module) -> Constraint:
    return FixedMaskConstraint(module, 10, masks={"0.weight": torch.ones(6, 3, 3, 3, dtype=torch.bool)})


def penalty(module: nn.Module) -> Constraint:
    gone = np.array([True, False, True, False, False, False])
    leaving = [(PrunedEntries("0.weight", 0, "writer", gone), PrunedEntries("1.weight", 0, "per_channel", gone))]
    return PenaltyConstraint(module, 10, penalty=PENALTY, leaving=leaving)


@pytest.mark.parametrize("bind", [masks, penalty])
def test_constraints(elsewhere: nn.Module, bind: Callable[[nn.Module], Constraint]) -> None:
    constraint = bind(elsewhere)
    held_beside = list(tree_leaves(list(vars(constraint).values())))
    assert len(held_beside) > 1
    assert {each.device.type for each in held_beside} == {"meta"}
    constraint.after_backward(0), constraint.after_step(0)
    assert all(each.grad is not None and each.grad.device.type == "meta" for each in elsewhere.parameters())


def test_averages(elsewhere: nn.Module) -> None:
    average = ema_weights(elsewhere, 0.9)
    assert average is not None
    assert all(each.device.type == "meta" for each in average.module.state_dict().values())


def test_what_the_optimizer_remembers(elsewhere: nn.Module) -> None:
    optimizer = make_optimizer(elsewhere, SGD)
    shapes = {name: each.shape for name, each in elsewhere.named_parameters()}
    load_optimizer_state(
        elsewhere, optimizer, {name: {"momentum_buffer": torch.zeros(shape)} for name, shape in shapes.items()}
    )
    optimizer.step()
    assert all(each["momentum_buffer"].device.type == "meta" for each in optimizer.state.values())
