"""Unequal splits whose sizes the module stores; several parts may share one size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.surgery.analysis import analyze

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py


class FusedQueries(nn.Module):
    """Grouped queries with one layer for q, k and v; one attribute stores the size of k and that of v."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.keys, self.head_dim = heads, 2, 16
        self.q_size, self.kv_size = 16 * heads, 32
        self.qkv, self.o = nn.Linear(16, 16 * heads + 64), nn.Linear(16 * heads, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q, k, v = self.in_heads(q, self.heads), self.in_heads(k, self.keys), self.in_heads(v, self.keys)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).reshape(*x.shape[:2], self.q_size))

    def in_heads(self, x: Tensor, heads: int) -> Tensor:
        """Splits and repeats on one line: four heads repeat two keys twice, which is as many times as there are."""
        return x.view(*x.shape[:2], heads, self.head_dim).transpose(1, 2).repeat_interleave(self.heads // heads, 1)


@pytest.mark.parametrize("heads", [4, 6])
def test_keys_and_values_that_share_a_stored_size_go_together(heads: int, cut: Cut) -> None:
    module = nn.Sequential(nn.Linear(5, 16), FusedQueries(heads), nn.Linear(16, 3))
    free, slim = cut(module, torch.randn(1, 7, 5))
    assert free == {"0": 16, "1.qkv": 2, "1.o": 16}
    assert (slim[1].q_size, slim[1].kv_size, slim[1].keys) == (8 * heads, 16, 1)
    assert slim[1].qkv.out_features == 8 * heads + 32


class Parts(nn.Module):
    """A part that is read by itself, and two of one size that are combined or read one by one."""

    def __init__(self, *, combined: bool = True, literal: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = 12, 8, 8
        self.combined, self.literal = combined, literal
        self.first, self.side, self.second, self.third = map(nn.Linear, (5, 12, 8, 8), (28, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        a, b, c = torch.split(x, [12, 8, 8] if self.literal else [self.a, self.b, self.c], dim=1)
        y = self.second(b * c.sigmoid()) if self.combined else self.second(b) + self.third(c)
        return y + self.side(a)


@pytest.mark.parametrize("combined", [True, False])
def test_two_attributes_of_one_size_both_follow(combined: bool, cut: Cut) -> None:
    free, slim = cut(Parts(combined=combined), torch.randn(2, 5))
    assert free == {"first": 8, "first#2": 12}
    assert slim.b == slim.c == slim.second.in_features < 8
    assert slim.a == slim.side.in_features < 12


def test_numbers_that_only_equal_stored_ones_are_fixed() -> None:
    first = analyze(Parts(literal=True), torch.randn(2, 5), name="parts").groups[0]
    assert (first.size, str(first.frozen.reason).partition(" (")[0]) == (28, "sizes fixed in the code")
