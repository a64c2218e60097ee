"""Synaptic flow: two layers by hand, conservation, and a model that stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.criteria.synaptic_flow import synaptic_flow


def test_two_layers_by_hand() -> None:
    """|W1| = [[1, 2], [3, 4]], |W2| = [[1, 2]] and an input of ones: R = 17, which each layer's scores sum to."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [-3.0, 4.0]]))
        net[2].weight.copy_(torch.tensor([[-1.0, 2.0]]))
    found = synaptic_flow(net, [torch.randn(1, 2)])
    assert found["0.weight"].tolist() == [[1, 2], [6, 8]]
    assert found["2.weight"].tolist() == [[3, 14]]


def test_layers_between_input_and_output_carry_the_same_sum_and_the_model_stays() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 16, 4, bias=False),
    )  # fmt: skip
    net[0].weight.requires_grad_(False)
    before = {name: each.clone() for name, each in net.state_dict().items()}
    sums = [float(each.sum()) for each in synaptic_flow(net, [torch.zeros(1, 3, 8, 8)]).values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)
    assert net.training
    assert net[0].weight.dtype == torch.float32
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())


def test_a_deep_network_stays_within_the_range_of_its_numbers() -> None:
    """0.001 in each of 30 layers of width 2 is 1e-80, which float32 would call zero."""
    net = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(30)))
    for layer in net:
        nn.init.constant_(layer.weight, 1e-3)
    found = synaptic_flow(net, [torch.zeros(1, 2)])
    assert all(bool((each > 0).all()) for each in found.values())


def test_buffers_take_their_absolute_values_too() -> None:
    """R = g (w x - |mean|) / sqrt(var) with w = 2, g = 3, x = 1, mean = -5, var = 4."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0)).eval()
    with torch.no_grad():
        module[0].weight.fill_(-2.0)
        module[1].weight.fill_(3.0)
        module[1].running_mean.fill_(-5.0)
        module[1].running_var.fill_(4.0)
    scores = synaptic_flow(module, [torch.randn(1, 1)])
    assert scores["0.weight"].item() == 2 * 3 / 2
    assert scores["1.weight"].item() == 3 * (2 - 5) / 2
