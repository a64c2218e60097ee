"""Sizes that code takes from itself, from einops, from repeats, from weights in another shape or from a first state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.models.preparation.free_rearrange import FreeRearrange, free_rearrange
from compressor.models.preparation.prepare import prepare_module

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py


class Heads(nn.Module):
    """Attention with one layer for q, k and v, whose number of heads is a number in the code, or an attribute."""

    def __init__(self, *, stored: bool) -> None:
        super().__init__()
        self.qkv, self.o, self.stored, self.heads = nn.Linear(16, 48), nn.Linear(16, 3), stored, 4

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if self.stored:
            qkv = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            qkv = self.qkv(x).reshape(b, n, 3, 4, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        return self.o(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


@pytest.mark.parametrize("stored", [True, False])
def test_code_that_splits_otherwise_without_an_error_is_not_taken_for_heads(cut: Cut, stored: bool) -> None:
    groups, _ = cut(Heads(stored=stored), torch.randn(2, 5, 16))
    assert groups == ({"qkv": 4} if stored else {})


def test_axes_of_einops_are_sizes_that_can_change(cut: Cut) -> None:
    pytest.importorskip("einops")
    from einops.layers.torch import Rearrange

    class Rearranged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.o = nn.Linear(16, 48), nn.Linear(16, 3)
            self.split = Rearrange("b n (qkv h d) -> qkv b h n d", qkv=3, h=4)
            self.join = Rearrange("b h n d -> b n (h d)")

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.split(self.qkv(x))
            return self.o(self.join(torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k), -1) @ v))

    net, x = Rearranged(), torch.randn(2, 5, 16)
    before = net(x)
    free_rearrange(net)
    assert isinstance(net.split, FreeRearrange)
    assert torch.equal(net(x), before)
    groups, slim = cut(net, x)
    assert groups == {"qkv": 4}
    assert slim.get_submodule("split").length_h == 2


def test_as_many_heads_as_places_in_a_head_are_told_apart(cut: Cut) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 20, batch_first=True)
    prepare_module(layer)
    assert cut(layer, torch.randn(2, 5, 16))[0] == {"self_attn": 4, "linear1": 20}

    class Equal(Heads):
        def __init__(self) -> None:
            super().__init__(stored=True)
            self.head_dim = 4

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
            return self.o(y.transpose(1, 2).reshape(b, n, self.heads * self.head_dim))

    assert cut(Equal(), torch.randn(2, 5, 16))[0] == {"qkv": 4}


class Repeated(nn.Module):
    """VNet: the input, as often as there are channels, is added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels, self.in_channels = 12, 1
        self.conv, self.last = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.conv(x) + x.repeat(1, self.out_channels // self.in_channels, 1, 1)))


def test_the_number_of_repeats_follows_the_channels(cut: Cut) -> None:
    assert cut(Repeated(), torch.randn(1, 1, 6, 6))[0] == {"conv": 12}


class RadialLayer(nn.Module):
    """A layer of a KAN, whose weight (outputs, inputs, knots) is applied as a matrix."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base, self.spline = (
            nn.Parameter(torch.randn(outputs, inputs)),
            nn.Parameter(torch.randn(outputs, inputs, 4)),
        )
        self.register_buffer("grid", torch.linspace(-1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        basis = torch.exp(-((x.unsqueeze(-1) - self.grid) ** 2)).view(x.size(0), -1)
        return F.linear(F.silu(x), self.base) + F.linear(basis, self.spline.view(self.spline.size(0), -1))


def test_a_weight_in_another_shape_still_reads_channels(cut: Cut) -> None:
    groups, _ = cut(nn.Sequential(RadialLayer(4, 9), RadialLayer(9, 2)), torch.randn(3, 4))
    assert groups == {"0": 9}


class ConvLSTM(nn.Module):
    """The first state is a tensor of zeros, beside the input of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_dim, self.gates, self.last = 6, nn.Conv2d(2 + 6, 24, 3, padding=1), nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.size(0), self.hidden_dim, *x.shape[3:], device=x.device)
        for step in range(x.size(1)):
            gates = self.gates(torch.cat([x[:, step], h], dim=1))
            i, f, o, g = torch.split(gates, self.hidden_dim, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.last(h)


def test_a_first_state_of_zeros_is_as_wide_as_what_follows(cut: Cut) -> None:
    groups, slim = cut(ConvLSTM(), torch.randn(1, 2, 2, 5, 5))
    assert groups == {"gates": 6}
    assert slim.get_submodule("").hidden_dim == 3


class SideBranch(nn.Module):
    """One number in a view of a side branch; the error comes where its result meets another tensor.

    `attribute`: the number is stored by the module, so that it follows the width.
    """

    def __init__(self, *, attribute: bool) -> None:
        super().__init__()
        self.attribute, self.inner = attribute, 8
        self.stem, self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 1), nn.Conv2d(12, 8, 1)
        self.back, self.context, self.head = nn.Conv1d(8, 12, 1), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        p = self.a(x).view(b, self.inner, -1) if self.attribute else self.a(x).view(b, 8, -1)
        q = self.b(x).flatten(2)
        y = self.back(p * q)
        x = x + y.unflatten(2, (h, w))
        weights = x.mean(1, keepdim=True).view(b, 1, h * w).softmax(2).unsqueeze(-1)
        pooled = torch.matmul(x.view(b, 1, c, h * w), weights)
        return self.head(x + self.context(pooled.view(b, c, 1, 1)))


@pytest.mark.parametrize("attribute", [False, True])
def test_a_number_in_one_line_fixes_no_other_line(cut: Cut, attribute: bool) -> None:
    groups, _ = cut(SideBranch(attribute=attribute), torch.randn(1, 3, 8, 8))
    assert groups == ({"stem": 12, "a": 8} if attribute else {"stem": 12})
