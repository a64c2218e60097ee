"""Zeros under training: fixed ones stay, SR-STE's gradient by hand, and a run that was interrupted."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compressor.core import NMPattern
from compressor.sparsity.masking import apply_masks
from compressor.sparsity.nm_masks import magnitude_mask, satisfies_pattern
from compressor.sparsity.sr_ste import SparseRefined, SRSTEState, train_with_sr_ste
from compressor.training.constraints import FixedMaskConstraint

TWO_FOUR = NMPattern(2, 4)


class Two(nn.Module):
    """w = (1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))


def sgd_step(module: Two, optimizer: torch.optim.Optimizer, held: FixedMaskConstraint | None, *, after: bool) -> None:
    optimizer.zero_grad()
    module.w.sum().backward()
    if held:
        held.after_backward(0)
    optimizer.step()
    if held and after:
        held.after_step(0)


@pytest.mark.parametrize("after", [False, True])
def test_a_momentum_from_before_revives_a_weight_unless_it_is_masked_after_the_step(after: bool) -> None:
    """lr 0.1, momentum 0.9: one free step on the sum of w, then one with the mask (1, 0): (0.71, -0.09) by hand."""
    module = Two()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    sgd_step(module, optimizer, None, after=False)
    held = FixedMaskConstraint(module, 10, masks={"w": torch.tensor([True, False])})
    held.after_step(0)
    sgd_step(module, optimizer, held, after=after)
    assert module.w.tolist() == pytest.approx([0.71, 0.0 if after else -0.09])


@pytest.mark.parametrize("make", [
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
])  # fmt: skip
def test_masked_weights_stay_exactly_zero(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 16))
    names = {"0.weight": net[0].weight, "2.weight": net[2].weight}
    masks = {name: magnitude_mask(weight, TWO_FOUR) for name, weight in names.items()}
    optimizer = make(net.parameters())
    held = FixedMaskConstraint(net, 10, masks=masks)
    for iteration in range(6):
        optimizer.zero_grad()
        net(torch.randn(4, 8, 4, 4)).square().mean().backward()
        if iteration < 2:  # dense, so that there are momenta
            optimizer.step()
            continue
        held.after_backward(iteration)
        optimizer.step()
        held.after_step(iteration)
        for name, mask in masks.items():
            assert not net.get_parameter(name)[~mask].any()
            assert net.get_parameter(name)[mask].all()


def test_masking_leaves_the_dense_module_and_its_other_weights_as_they_are() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    before = copy.deepcopy(net.state_dict())
    mask = magnitude_mask(net[0].weight, TWO_FOUR)
    sparse = apply_masks(net, {"0.weight": mask})
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(sparse.state_dict()["0.weight"], before["0.weight"] * mask)
    assert torch.equal(sparse.state_dict()["1.weight"], before["1.weight"])


def test_sr_ste_by_hand() -> None:
    """w = (.5, -.2, .1, -.4), gradient all 1: mask (1, 0, 0, 1), gradient (1, .99996, 1.00002, 1) at 2e-4."""
    weight = torch.tensor([[0.5, -0.2, 0.1, -0.4]], dtype=torch.float64, requires_grad=True)
    used = SparseRefined(TWO_FOUR, 2e-4)(weight)
    assert used.tolist() == [[0.5, 0, 0, -0.4]]
    used.sum().backward()
    assert weight.grad is not None
    assert weight.grad[0].tolist() == pytest.approx([1, 0.99996, 1.00002, 1], abs=1e-12)


def test_sr_ste_starts_from_the_repaired_weights() -> None:
    """The refit (.1, 0, 0, -.4) keeps its values and its mask: -.2 is reduced to just below .1, and .05 stays."""
    net = nn.Sequential(nn.Linear(4, 1, bias=False))
    dense, refit = torch.tensor([[0.5, -0.2, 0.05, -0.4]]), torch.tensor([[0.1, 0.0, 0.0, -0.4]])
    mask = magnitude_mask(dense, TWO_FOUR)
    net[0].weight.data.copy_(refit)
    with train_with_sr_ste(net, SRSTEState(TWO_FOUR, 2e-4, {"0.weight": dense}), {"0.weight": mask}):
        (original,) = net.parameters()
        assert torch.equal(net[0].weight, refit)
        assert original[0].tolist() == pytest.approx([0.1, -0.1, 0.05, -0.4])
        assert torch.equal(magnitude_mask(original, TWO_FOUR), mask)


def test_sr_ste_starts_from_dense_values_lets_masks_move_and_leaves_them_masked() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8, bias=False))
    dense = net[0].weight.detach().clone()
    first = magnitude_mask(dense, TWO_FOUR)
    net = apply_masks(net, {"0.weight": first})
    target = torch.randn(8, 8)
    with train_with_sr_ste(net, SRSTEState(TWO_FOUR, 2e-4, {"0.weight": dense}), {"0.weight": first}):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        (original,) = net.parameters()
        assert torch.equal(original, dense)
        for _ in range(50):
            optimizer.zero_grad()
            (net[0].weight - target).square().sum().mul(0.1).backward()
            optimizer.step()
        state = copy.deepcopy(net.state_dict())
    assert list(state) == ["0.parametrizations.weight.original"], "a checkpoint holds all values"
    assert [name for name, _ in net.named_parameters()] == ["0.weight"]
    assert satisfies_pattern(net[0].weight, TWO_FOUR)
    assert not torch.equal(net[0].weight != 0, first)
    best = magnitude_mask(target, TWO_FOUR)
    assert float(((net[0].weight != 0) == best).float().mean()) > 0.8, "masks went where the target is large"
