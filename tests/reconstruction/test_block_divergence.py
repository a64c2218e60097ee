"""The affine repair of a dropped block, against a hand-computed case."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from compressor.reconstruction.block_divergence import BlockDivergence, ChannelMoments


def test_the_map_of_every_channel_is_its_regression() -> None:
    """x = 0 1 2 3, y = 2 x + 1 in one channel; a constant x and y = x + 5 in the other."""
    x = torch.tensor([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0], [3.0, 7.0]])
    y = torch.stack([2 * x[:, 0] + 1, x[:, 1] + 5], 1)
    moments = ChannelMoments(channel_dim=1)
    for rows in (slice(0, 1), slice(1, 4)):
        moments.add(x[rows], y[rows])
    stand_in = moments.stand_in()
    assert torch.allclose(stand_in(x), y)
    assert torch.allclose(stand_in.get_buffer("scale"), torch.tensor([[2.0, 1.0]]))


class Scaling(nn.Module):
    """y = x + f x, which an affine map replaces exactly; or with a square, which it does not."""

    def __init__(self, square: bool) -> None:
        super().__init__()
        self.weight, self.square = nn.Parameter(torch.tensor([0.5, -2.0])), square

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * (x**2 if self.square else x)


@pytest.mark.parametrize("square", [False, True])
def test_only_what_an_affine_map_cannot_do_moves_the_answers(square: bool) -> None:
    dense = nn.Sequential(Scaling(square), nn.Tanh()).eval()
    samples = [torch.randn(50, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    trials = BlockDivergence(dense, {"0": 1}, samples[:1], samples[1:], num_classes=None)
    assert trials.of([]) == pytest.approx(0, abs=1e-9)
    assert math.isclose(trials.of(["0"]), 0, abs_tol=1e-6) is not square
