"""Weights made orthogonal, and weights made anew."""

from __future__ import annotations

import math

import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.errors import ModelError
from compressor.models.cifar import cifar_resnet
from compressor.training.initialization import orthogonal, orthogonalize, reinitialize


def test_the_orthogonal_factor_of_two_by_two() -> None:
    found = orthogonal(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.3162, 0.9487], [0.9487, -0.3162]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (40, 3, 3, 3), (6, 1, 3, 3)])
def test_rows_or_columns_become_orthogonal_with_the_gain(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(shape[1], shape[0], 3, bias=False)
    orthogonalize(layer, math.sqrt(2))
    rows = layer.weight.detach().flatten(1)
    small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    torch.testing.assert_close(small, 2 * torch.eye(len(small)), atol=1e-5, rtol=0)


def test_random_weights_depend_on_the_seed_alone_and_fit_the_fan_in() -> None:
    nets = [cifar_resnet("resnet8") for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        net.bn1.running_mean.fill_(3.0)
        net.bn1.weight.data.fill_(0.0)
        torch.rand(seed)
        reinitialize(net, seed)
    first, second, third = (net.state_dict() for net in nets)
    assert all(torch.equal(each, second[name]) for name, each in first.items())
    assert not torch.equal(first["layer3.0.conv2.weight"], third["layer3.0.conv2.weight"])
    assert first["layer3.0.conv2.weight"].std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)
    assert not first["bn1.running_mean"].any()
    assert first["bn1.weight"].eq(1).all()


def test_a_parameter_that_nobody_can_make_anew_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with raises_error(ModelError, "random-weights/no-reset-parameters", "Scaled", "scale"):
        reinitialize(nn.Sequential(nn.Linear(2, 3), Scaled()), 0)
