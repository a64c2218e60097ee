"""Tensors of one number, made to the width of channels: first states above all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressor.surgery.analysis import analyze

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py
Start = Callable[[Tensor], Tensor]
"""(B, T, C) -> the first state (B, C)"""


class Scan(nn.Module):
    """h = g h + v, step by step."""

    def __init__(self, start: Start | None = None) -> None:
        super().__init__()
        self.v, self.g, self.o = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 3)
        self.start, self.width = start, 12

    def forward(self, x: Tensor) -> Tensor:
        v, g = self.v(x), self.g(x).sigmoid()
        h = self.start(v) if self.start else torch.zeros(len(x), self.width)
        for step in range(x.shape[1]):
            h = g[:, step] * h + v[:, step]
        return self.o(h)


STARTS: dict[str, Start | None] = {
    "sizes of a shape": lambda v: torch.zeros(v.size(0), v.size(2)),
    "new": lambda v: v.new_ones(v.shape[0], v.shape[-1]),
    "a number": lambda v: torch.full((v.shape[0], v.shape[-1]), -3.0),
    "computed": lambda v: torch.maximum(-torch.ones(v.shape[-1]), v.new_zeros(v.shape[0], v.shape[-1]) - 2),
    "in another shape": lambda v: torch.ones(v.shape[0] * v.shape[-1]).view(v.shape[0], -1),
    "an attribute": None,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_first_state_is_as_wide_as_what_it_is_combined_with(start: Start | None, cut: Cut) -> None:
    free, slim = cut(Scan(start), torch.randn(2, 4, 5))
    assert free == {"v": 12}
    assert slim.get_submodule("").width == (12 if start else slim.o.in_features)
    assert slim.o.in_features == 7


def written(v: Tensor) -> Tensor:
    h = torch.zeros(v.shape[0], v.shape[-1])
    h.view(-1)[:4] = 1.0
    return h


@pytest.mark.parametrize("start", [lambda v: torch.ones(v.shape[0], 12), written], ids=["literal", "written"])
def test_a_state_of_a_size_or_of_numbers_of_its_own_is_fixed(start: Start) -> None:
    state = analyze(Scan(start), torch.randn(1, 4, 5), name="scan").groups[0]
    assert (state.size, str(state.frozen.reason).partition(" (")[0]) == (12, "combined with a tensor of fixed size")


class SelectiveScan(nn.Module):
    """Mamba: a state of numbers for each channel, with a depthwise filter made as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(5, 12), nn.Linear(12, 3)
        self.rates, self.mix = nn.Parameter(torch.rand(12, 4)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        x = nn.functional.conv1d(x.transpose(1, 2), torch.ones(x.shape[2], 1, 2), groups=x.shape[2]).transpose(1, 2)
        b, steps, channels = x.shape
        kept = torch.exp(-torch.einsum("btc,cn->btcn", x.sigmoid(), self.rates))
        h = torch.zeros((b, channels, self.rates.shape[1]))
        for step in range(steps):
            h = kept[:, step] * h + x[:, step, :, None]
        return self.out(torch.einsum("bcn,bn->bc", h, self.mix(x[:, -1])))


def test_a_state_of_several_numbers_for_each_channel(cut: Cut) -> None:
    assert cut(SelectiveScan(), torch.randn(2, 5, 5))[0] == {"inner": 12}
