"""Channels that do nothing: unread, or zero themselves; taking them out changes no answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import output_change
from compressor.surgery.dead_channels import dead_channels
from compressor.surgery.removal import remove_channels


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.outer = nn.Conv2d(5, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Residual:
    torch.manual_seed(0)
    module = Residual().eval()
    nn.init.normal_(module.norm.bias)
    return module


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def gone(module: nn.Module) -> dict[str, list[int]]:
    """Channels found dead; taking them out must change nothing."""
    structure = analyze(module, X[:1], name="net")
    plan = dead_channels(module, structure.groups)
    assert output_change(module, remove_channels(module, structure, plan), X).max_rel_error < 1e-12
    return {name: (~kept).nonzero()[0].tolist() for name, kept in plan.kept.items()}


@torch.no_grad()
def test_nothing_is_dead_in_a_dense_network(net: Residual) -> None:
    assert gone(net) == {}


@torch.no_grad()
def test_a_channel_is_dead_when_all_its_readers_are_zero_and_only_then(net: Residual) -> None:
    net.inner.weight[:, 2] = 0
    assert gone(net) == {}, "the head still reads it"
    net.head.weight[:, 2] = 0
    assert gone(net) == {"stem": [2]}


@torch.no_grad()
def test_a_channel_that_nothing_writes_is_dead_only_without_its_bias(net: Residual) -> None:
    net.inner.weight[1] = 0
    assert gone(net) == {}, "its bias is an answer"
    net.inner.bias[1] = 0
    assert gone(net) == {"inner": [1]}


@torch.no_grad()
def test_a_channel_both_sides_of_an_addition_must_be_silent(net: Residual) -> None:
    net.stem.weight[3] = 0
    net.norm.weight[3] = net.norm.bias[3] = 0
    assert gone(net) == {}, "the other side still writes it"
    net.outer.weight[3] = 0
    assert gone(net) == {"stem": [3]}


@torch.no_grad()
def test_what_only_dead_channels_read_dies_with_them(net: Residual) -> None:
    """inner 0 reads only stem 1; head and outer stop reading inner 0, and the head stem 1."""
    net.inner.weight[1:, 1] = 0
    net.head.weight[:, 1] = 0
    assert gone(net) == {}
    net.outer.weight[:, 0] = 0
    assert gone(net) == {"stem": [1], "inner": [0]}


@torch.no_grad()
def test_a_layer_that_is_dead_altogether_keeps_a_channel(net: Residual) -> None:
    net.outer.weight.zero_()
    assert gone(net) == {"inner": [1, 2, 3, 4]}
