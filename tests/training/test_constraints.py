"""A bound penalty: the gradients it adds to a whole network, and what it leaves at zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import PrunedEntries, PrunePlan
from compressor.criteria.magnitude import l1
from compressor.graph.dependency_graph import DependencyGraph
from compressor.models.cifar import cifar_resnet
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import pruned_entries, remove_channels, removed_entries
from compressor.training.constraints import PenaltyConstraint
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import (
    constant_strength,
    decay_pruned,
    gram_mean,
    kernel_orthogonality,
    l1_norm,
    zero_start,
)


def coupled() -> nn.Module:
    """Streams that several layers write, padded shortcuts, BatchNorm."""
    return cifar_resnet("resnet8")


def projected() -> nn.Module:
    return cifar_resnet("resnet8b")


def plain() -> nn.Module:
    """No normalisation, biases, linear layers behind a flattening."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10), nn.Tanh(), nn.Linear(10, 8), nn.ReLU(),
        nn.Linear(8, 4),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 5, 1), nn.PReLU(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip


NETS = [coupled, projected, plain, depthwise]


def planned(
    make: Callable[[], nn.Module],
) -> tuple[nn.Module, DependencyGraph, PrunePlan, list[tuple[PrunedEntries, ...]]]:
    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.weight.uniform_(0.5, 1.5)
                each.bias.uniform_(-0.5, 0.5)
    structure = analyze(module.eval(), torch.randn(1, 3, 8, 8), name="net")
    graded = l1.score_channels(module, structure.groups)
    whole = structure.cost.of(PrunePlan({}))
    plan, groups = select_channels(structure.groups, graded, PruningTarget(ratio=0.5), structure.cost, whole)
    lost = [pruned_entries((group,), plan, module) for group in groups if group.name in plan.kept]
    return module, structure, plan, lost


def gone_from(tensor: Tensor, entries: object) -> Tensor:
    mask = torch.zeros(tensor.shape[0], dtype=torch.bool)
    mask[torch.as_tensor(entries)] = True
    return mask


@pytest.mark.parametrize("make", NETS)
def test_adds_the_gradient_of_the_released_loss(make: Callable[[], nn.Module]) -> None:
    """1000 s sum |W W^T * (1 - m m^T)|^2 / N^2 + s/2 sum (|W_j|^2 + g_j^2 + b_j^2), by autograd over the network."""
    module, structure, plan, lost = planned(make)
    s = 0.3
    terms = (
        PenaltyTerm(gram_mean, partial(constant_strength, value=1000 * s)),
        PenaltyTerm(decay_pruned, partial(constant_strength, value=s)),
        PenaltyTerm(decay_pruned, partial(constant_strength, value=s), applies_to="affines"),
    )  # fmt: skip
    bound = PenaltyConstraint(module, 10, penalty=Penalty("tpp", terms), leaving=lost)
    parameters = dict(module.named_parameters())
    loss = torch.zeros(())
    for (name, dim), gone in removed_entries(structure.groups, plan, "writer").items():
        assert dim == 0
        rows = parameters[name].flatten(1)
        leaves = gone_from(rows, gone)
        pairs = leaves[:, None] | leaves[None, :]
        loss = loss + 1000 * s * ((rows @ rows.T) * pairs).square().mean() + s / 2 * rows[leaves].square().sum()
    touched = 0
    for (name, _), gone in removed_entries(structure.groups, plan, "per_channel").items():
        if name in parameters:
            touched += 1
            loss = loss + s / 2 * parameters[name][gone_from(parameters[name], gone)].square().sum()
    assert touched
    loss.backward()
    expected = {name: each.grad for name, each in parameters.items()}
    task = {name: torch.randn_like(each) for name, each in parameters.items()}
    for name, each in parameters.items():
        each.grad = task[name].clone()
    bound.after_backward(0)
    for name, each in parameters.items():
        added = 0.0 if expected[name] is None else expected[name]
        torch.testing.assert_close(each.grad, task[name] + added, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("make", NETS)
def test_removal_is_lossless_once_all_is_zero(make: Callable[[], nn.Module]) -> None:
    module, structure, plan, lost = planned(make)
    penalty = Penalty("zero", (), partial(zero_start, growth=10, hold=5))
    bound = PenaltyConstraint(module, 15, penalty=penalty, leaving=lost)
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    bound.after_step(9)
    assert all(torch.equal(each, before[name]) for name, each in module.named_parameters())
    bound.after_step(14)
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    slim = remove_channels(module, structure, plan).double().eval()
    answers = module.double().eval()(images)
    torch.testing.assert_close(slim(images), answers, rtol=0, atol=1e-12)
    gone = removed_entries(structure.groups, plan, "writer") | removed_entries(structure.groups, plan, "per_channel")
    for name, each in module.named_parameters():
        leaves = gone_from(each, gone.get((name, 0), np.array([], dtype=np.int64)))
        assert not each[leaves].any(), name
        assert torch.equal(each[~leaves].float(), before[name][~leaves]), name


def test_groups_turn_to_zero_one_after_the_other() -> None:
    module, _, _, lost = planned(coupled)
    assert len(lost) > 2
    zero_from = partial(zero_start, growth=0, hold=100 * (len(lost) + 1))
    bound = PenaltyConstraint(module, 2000, penalty=Penalty("zero", (), zero_from), leaving=lost)
    parameters = dict(module.named_parameters())
    starts = [zero_from(place, len(lost), 2000) for place in range(len(lost))]
    zeros = []
    for iteration in starts:
        bound.after_step(iteration)
        zeros.append([
            not any(parameters[each.tensor][torch.from_numpy(each.entries)].any()
                    for each in group if each.role == "writer")
            for group in lost
        ])  # fmt: skip
    expected = [[place <= done for place in range(len(lost))] for done in range(len(lost))]
    assert zeros == expected


def test_layers_are_all_convolutions_and_linear_layers_but_the_spared() -> None:
    module = plain()
    everywhere = Penalty(
        "KernOrth", (PenaltyTerm(kernel_orthogonality, partial(constant_strength, value=0.1), applies_to="layers"),)
    )
    spared = Penalty(
        "KernOrth",
        (PenaltyTerm(kernel_orthogonality, partial(constant_strength, value=0.1), applies_to="layers", skip_first=1),),
    )
    PenaltyConstraint(module, 1, penalty=everywhere, leaving=()).after_backward(0)
    assert [name for name, each in module.named_parameters() if each.grad is not None and each.grad.any()] == [
        "0.weight", "3.weight", "5.weight", "7.weight",
    ]  # fmt: skip
    module.zero_grad()
    PenaltyConstraint(module, 1, penalty=spared, leaving=()).after_backward(0)
    assert [name for name, each in module.named_parameters() if each.grad is not None and each.grad.any()] == [
        "3.weight", "5.weight", "7.weight",
    ]  # fmt: skip


def test_a_strength_of_zero_leaves_gradients_bit_for_bit() -> None:
    module, _, _, lost = planned(plain)
    for each in module.parameters():
        each.grad = torch.ones_like(each)
    nothing = Penalty("none", (PenaltyTerm(gram_mean, partial(constant_strength, value=0.0)),))
    PenaltyConstraint(module, 1, penalty=nothing, leaving=lost).after_backward(0)
    assert all(each.grad is not None and each.grad.eq(1).all() for each in module.parameters())


def test_scales_are_pulled_wherever_they_are_and_nothing_else() -> None:
    """L1: the gradient of s sum |g| is s sign(g), before there is a plan."""
    module = coupled()
    with torch.no_grad():
        module.bn1.weight[:3] = torch.tensor([-0.5, 0.0, 2.0])
    term = PenaltyTerm(l1_norm, partial(constant_strength, value=0.25), applies_to="scales")
    bound = PenaltyConstraint(module, 10, penalty=Penalty("slimming", (term,)), leaving=())
    bound.after_backward(0)
    pulled = {name: each.grad for name, each in module.named_parameters() if each.grad is not None}
    norms = [name for name, each in module.named_modules() if isinstance(each, nn.BatchNorm2d)]
    assert pulled.keys() == {f"{name}.weight" for name in norms}
    assert pulled["bn1.weight"][:4].tolist() == [-0.25, 0.0, 0.25, 0.25]
