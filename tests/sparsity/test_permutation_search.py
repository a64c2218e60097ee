"""Channel permutations: the hand-computed case, exact bookkeeping, and the function left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compressor.core import NMPattern
from compressor.models.cifar import cifar_resnet
from compressor.sparsity.permutation_search import best_order, best_orders, retained_magnitude
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import verify_against_original
from compressor.surgery.permutation import (
    certify_permutation,
    permutable_groups,
    permute_channels,
    permute_kept,
    permute_optimizer_state,
)

TWO_FOUR = NMPattern(2, 4)


def silent(*done: int) -> None:
    """Progress that nobody hears."""


def test_a_row_by_hand() -> None:
    """Unpermuted 9 + 8 + 1.5 + 1; in the order (0, 1, 4, 5, 2, 3, 6, 7) the four largest are kept."""
    rows_CR = torch.tensor([[9.0, 8, 7, 6, 1, 1, 1.5, 0.5]]).T
    assert retained_magnitude(rows_CR, TWO_FOUR) == 19.5
    assert retained_magnitude(rows_CR[[0, 1, 4, 5, 2, 3, 6, 7]], TWO_FOUR) == 30
    assert retained_magnitude(rows_CR[best_order(rows_CR, TWO_FOUR, rounds=2, seed=0, progress=silent)], TWO_FOUR) == 30


@pytest.mark.parametrize(("channels", "pattern"), [(16, TWO_FOUR), (24, NMPattern(2, 8)), (272, NMPattern(1, 4))])
def test_the_search_gains_and_is_repeatable(channels: int, pattern: NMPattern) -> None:
    """272 channels are more than one block."""
    random = torch.Generator().manual_seed(0)
    rows_CR = torch.rand(channels, 9, generator=random) * torch.rand(channels, 1, generator=random)
    heard: list[int] = []
    order = best_order(rows_CR, pattern, rounds=2, seed=3, progress=heard.append)
    assert sorted(order.tolist()) == list(range(channels))
    assert heard == [0, 1]
    assert retained_magnitude(rows_CR[order], pattern) > retained_magnitude(rows_CR, pattern)
    assert torch.equal(order, best_order(rows_CR, pattern, rounds=2, seed=3, progress=silent))
    most = rows_CR.topk(channels * pattern.n // pattern.m, dim=0).values.sum()
    assert retained_magnitude(rows_CR[order], pattern) <= float(most) * (1 + 1e-6)


def test_no_single_swap_gains_where_the_search_ended() -> None:
    rows_CR = torch.rand(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    order = best_order(rows_CR, TWO_FOUR, rounds=1, seed=0, progress=silent)
    best = retained_magnitude(rows_CR[order], TWO_FOUR)
    for a in range(12):
        for b in range(a):
            swapped = order.clone()
            swapped[[a, b]] = order[[b, a]]
            assert retained_magnitude(rows_CR[swapped], TWO_FOUR) <= best + 1e-4 * best


def awake(module: nn.Module) -> nn.Module:
    """Random normalisation statistics: those a network is born with would hide a wrong index."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=random)
    return module.eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return awake(cifar_resnet("resnet8"))


def test_siblings_share_an_order_and_the_function_stays(resnet: nn.Module) -> None:
    """Across residual additions and padded shortcuts; every conv of a stream reads it in one order."""
    inputs = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    structure = analyze(resnet, inputs[:1], name="resnet8", mixing=True)
    groups = permutable_groups(resnet, [group for group in structure.groups if group.frozen is None], inputs)
    assert {group.name for group in groups} == {group.name for group in structure.groups} - {"linear"}
    weights = {f"{name}.weight": each.weight for name, each in resnet.named_modules() if isinstance(each, nn.Conv2d)}
    weights.pop("conv1.weight")
    heard: list[tuple[int, int]] = []
    orders = best_orders(weights, groups, TWO_FOUR, rounds=1, seed=0, progress=lambda *done: heard.append(done))
    assert orders
    assert heard == sorted(heard)
    assert heard[-1] == (len(groups), len(groups))
    assert len(heard) > len(orders)
    assert all(sorted(order.tolist()) == list(range(len(order))) for order in orders.values())
    assert certify_permutation(resnet, groups, orders, inputs).ok
    after = permute_channels(resnet, groups, orders)
    with torch.inference_mode():
        torch.testing.assert_close(after(inputs), resnet(inputs), rtol=1e-4, atol=1e-5)
    assert not torch.equal(after.state_dict()["layer1.0.conv2.weight"], resnet.state_dict()["layer1.0.conv2.weight"])
    kept = permute_kept({}, groups, orders, after)
    assert verify_against_original(after, awake(cifar_resnet("resnet8")), kept, inputs).ok, (
        "plan.json puts every channel back"
    )
    momentum = {name: {"momentum_buffer": tensor.detach().clone()} for name, tensor in resnet.named_parameters()}
    moved = permute_optimizer_state(momentum, groups, orders, resnet)
    parameters = dict(after.named_parameters())
    assert all(torch.equal(each["momentum_buffer"], parameters[name]) for name, each in moved.items())


def test_writer_normalisation_and_reader_move_together() -> None:
    """conv2(relu(bn(conv1(x)))) with conv1's filters, the normalisation's vectors and conv2's columns permuted."""
    torch.manual_seed(0)
    net = awake(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    inputs = torch.randn(2, 3, 9, 9)
    groups = analyze(net, inputs[:1], name="net").groups
    order = np.array([7, 2, 5, 0, 1, 6, 3, 4])
    after = permute_channels(net, groups, {"0": order})
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(after.state_dict()[name], net.state_dict()[name][order]), name
    assert torch.equal(after.state_dict()["3.weight"], net.state_dict()["3.weight"][:, order])
    with torch.inference_mode():
        torch.testing.assert_close(after(inputs), net(inputs), rtol=0, atol=1e-6)


class Halves(nn.Module):
    """Channels of one group that go through different functions: they leave together, but are no equals."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x).split([4, 4], dim=1)
        return self.third(self.second(torch.cat((a.relu(), b.sigmoid()), dim=1)).relu())


def test_channels_that_are_no_equals_stay_where_they_are() -> None:
    torch.manual_seed(0)
    net, inputs = Halves().eval(), torch.randn(2, 3, 4, 4)
    groups = [group for group in analyze(net, inputs[:1], name="halves").groups if group.frozen is None]
    assert "second" in {group.name for group in permutable_groups(net, groups, inputs)}
    for group in permutable_groups(net, groups, inputs):
        order = np.roll(np.arange(group.size), 1)
        with torch.inference_mode():
            after = permute_channels(net, [group], {group.name: order})
            torch.testing.assert_close(after(inputs), net(inputs), rtol=0, atol=1e-6)
