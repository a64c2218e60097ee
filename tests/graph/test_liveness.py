"""Channels that code takes for their shape alone are free; those whose entries it reads are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressor.surgery.analysis import analyze

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py
Extra = Callable[[Tensor], Tensor]
"""(B, C, H, W) -> one more channel (B, 1, H, W)"""


class MoreChannels(nn.Module):
    """A channel is made beside those of a convolution, such as the time of a neural ODE."""

    def __init__(self, extra: Extra) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(13, 8, 3), nn.Conv2d(8, 2, 1)
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(self.b(torch.cat([self.extra(x), x], 1)).relu())


MEASURED: dict[str, Extra] = {
    "ones_like": lambda x: torch.ones_like(x[:, :1]) * 0.5,
    "zeros_like": lambda x: torch.zeros_like(x[:, 0]).unsqueeze(1) + torch.linspace(-1, 1, x.shape[-1]),
    "last": lambda x: torch.full_like(x[:, -1:], 2.0),
    "expand_as": lambda x: torch.arange(x.shape[-1]).float().expand_as(x[:, :1]),
    "view of a view": lambda x: x.new_ones(()).expand(x[:, :1].flatten(2).unsqueeze(-1).view_as(x[:, :1]).shape),
}
READ: dict[str, Extra] = {
    "value": lambda x: x[:, :1] * 0.5,
    "written": lambda x: x[:, :1].zero_() + 1,
    "looked into": lambda x: torch.ones_like(x[:, :1]) * float(x[:, :1].sum() > 0),
    "third": lambda x: torch.ones_like(x[:, 2:3]),
}


@pytest.mark.parametrize("extra", MEASURED.values(), ids=MEASURED)
def test_a_channel_that_is_only_measured_leaves_all_free(extra: Extra, cut: Cut) -> None:
    free, slim = cut(MoreChannels(extra), torch.randn(2, 3, 8, 8))
    assert free == {"a": 12, "b": 8}
    assert slim.b.in_channels == slim.a.out_channels + 1 < 13


@pytest.mark.parametrize("extra", READ.values(), ids=READ)
def test_a_channel_whose_entries_are_read_fixes_all(extra: Extra) -> None:
    groups = analyze(MoreChannels(extra), torch.randn(1, 3, 8, 8), name="more").groups
    assert {group.name: group.size for group in groups if group.frozen is None} == {"b": 8}
