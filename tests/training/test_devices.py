"""What holds tensors beside the network is on the network's device, checked on the one that has no numbers, so that no
accelerator is needed. Backward passes, and copies back from a device, are out of its reach."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from toys import SGD, toy_net

from compressor.core import Constraint, Leaving, Penalty, Term
from compressor.methods.penalties import decay_leaving, gram_mean, group_lasso
from compressor.sparsity.held import held
from compressor.training.average import averaged
from compressor.training.nested import tensors
from compressor.training.optimizers import make_optimizer, recall
from compressor.training.penalise import Penalised

PULLS = (Term(decay_leaving, lambda at, all: 1.0), Term(gram_mean, lambda at, all: 1.0))
AFFINES = Term(decay_leaving, lambda at, all: 1.0, on="affines")
LAYERS = Term(group_lasso, lambda at, all: 1.0, on="layers")
PENALTY = Penalty("all", (*PULLS, AFFINES, LAYERS), zero_at=lambda place, places, all: 0)


@pytest.fixture
def elsewhere() -> nn.Module:
    """A network on another device, with gradients."""
    module = toy_net().to("meta")
    for each in module.parameters():
        each.grad = torch.ones_like(each)
    return module


def masks(module: nn.Module) -> Constraint:
    return held(module, 10, masks={"0.weight": torch.ones(6, 3, 3, 3, dtype=torch.bool)})


def penalty(module: nn.Module) -> Constraint:
    gone = np.array([True, False, True, False, False, False])
    leaving = [(Leaving("0.weight", 0, "writer", gone), Leaving("1.weight", 0, "affine", gone))]
    return Penalised(module, 10, penalty=PENALTY, leaving=leaving)


@pytest.mark.parametrize("bind", [masks, penalty])
def test_constraints(elsewhere: nn.Module, bind: Callable[[nn.Module], Constraint]) -> None:
    constraint = bind(elsewhere)
    held_beside = list(tensors(list(vars(constraint).values())))
    assert len(held_beside) > 1
    assert {each.device.type for each in held_beside} == {"meta"}
    constraint.loss(0), constraint.on_gradients(0), constraint.on_weights(0)
    assert all(each.grad is not None and each.grad.device.type == "meta" for each in elsewhere.parameters())


def test_averages(elsewhere: nn.Module) -> None:
    average = averaged(elsewhere, 0.9)
    assert average is not None
    assert all(each.device.type == "meta" for each in average.module.state_dict().values())


def test_what_the_optimizer_remembers(elsewhere: nn.Module) -> None:
    optimizer = make_optimizer(elsewhere, SGD)
    shapes = {name: each.shape for name, each in elsewhere.named_parameters()}
    recall(elsewhere, optimizer, {name: {"momentum_buffer": torch.zeros(shape)} for name, shape in shapes.items()})
    optimizer.step()
    assert all(each["momentum_buffer"].device.type == "meta" for each in optimizer.state.values())
