"""Code that checks a width against a number follows the width, or keeps what it checks whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal
from compressor.surgery.removal import remove_channels


class Up(nn.Module):
    """The input's width is checked; the output's may be another one."""

    def __init__(self, channels: int, out: int | None = None) -> None:
        super().__init__()
        self.channels, self.out_channels = channels, out or channels
        self.conv = nn.Conv2d(self.channels, self.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return self.conv(nn.functional.interpolate(x, scale_factor=2.0))


class Raises(Up):
    def forward(self, x: Tensor) -> Tensor:
        width = x.size(1)
        if width != self.channels:
            raise ValueError(f"{width} channels")
        return self.conv(x)


class ChecksLate(Up):
    """The output is checked as well, whose width equals that of the input before any cut."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        x = self.conv(x)
        assert x.shape[1] == self.out_channels, "wrong output"
        return x


class ByHelper(Up):
    def forward(self, x: Tensor) -> Tensor:
        require(x, self.channels)
        return self.conv(x)


class ByTorch(Up):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[1] == self.channels, "wrong input")
        return self.conv(x)


class Literal(Up):
    """Checks against a number in the code, which nothing can rewrite."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 16
        return self.conv(x)


def require(x: Tensor, width: int) -> None:
    if x.shape[1] != width:
        raise ValueError(x.shape)


def net(make: Callable[[int], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), make(16), nn.ReLU(), make(16), nn.ReLU(), nn.Conv2d(16, 2, 1))


@pytest.mark.parametrize(
    ("make", "free"),
    [
        (Up, ["0", "2.conv", "4.conv"]),
        (Raises, ["0", "2.conv", "4.conv"]),
        (ChecksLate, ["0", "2.conv", "4.conv"]),
        (ByHelper, ["0", "2.conv", "4.conv"]),
        (ByTorch, ["0", "2.conv", "4.conv"]),
        (Literal, []),
    ],
)
def test_numbers_that_widths_are_checked_against_follow_them(make: Callable[[int], nn.Module], free: list[str]) -> None:
    module, x = net(make).eval(), torch.randn(2, 3, 6, 6)
    try:
        structure = analyze(module, x[:1], name="net")
    except Exception:
        assert not free
        raise
    groups = {group.name: group for group in structure.groups if group.frozen is None}
    assert list(groups) == free
    kept = {name: np.arange(16) < 4 + 3 * place for place, name in enumerate(free)}
    plan = PrunePlan(kept)
    slim = remove_channels(module, structure, plan)
    assert certify_removal(module, slim, structure, plan, x).ok
    if free:
        assert (slim[2].channels, slim[4].channels) == (4, 7)
        assert (module[2].channels, module[4].channels) == (16, 16)
    if make is ChecksLate:
        assert (slim[2].out_channels, slim[4].out_channels) == (7, 10)
