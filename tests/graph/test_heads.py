"""Attention whose q, k and v are reshaped each on a line of its own, as most libraries write it: heads go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py


class OwnLines(nn.Module):
    """BERT, ViT: the number of heads is an attribute; the places of v are summed over by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.all_head_size = 4, 6, 24
        self.q, self.k, self.v, self.o = (nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        batch, places, _ = x.shape
        q = self.q(x).view(batch, places, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(batch, places, self.num_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(batch, places, self.num_heads, self.head_dim).transpose(1, 2)
        y = ((q @ k.transpose(2, 3)) / self.head_dim**0.5).softmax(-1) @ v
        return self.o(y.permute(0, 2, 1, 3).reshape(batch, places, self.all_head_size))


class HeadsAsBatch(OwnLines):
    """BART: heads join the batch."""

    def forward(self, x: Tensor) -> Tensor:
        batch, places, _ = x.shape
        shape = (batch * self.num_heads, -1, self.head_dim)
        q = self.q(x).view(batch, -1, self.num_heads, self.head_dim).transpose(1, 2).reshape(shape)
        k = self.k(x).view(batch, -1, self.num_heads, self.head_dim).transpose(1, 2).reshape(shape)
        v = self.v(x).view(batch, -1, self.num_heads, self.head_dim).transpose(1, 2).reshape(shape)
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        y = y.view(batch, self.num_heads, places, self.head_dim).transpose(1, 2)
        return self.o(y.reshape(batch, places, self.all_head_size))


class GroupedQueries(nn.Module):
    """Llama: several queries share a key and a value, and go with them."""

    def __init__(self, keys: int, style: str) -> None:
        super().__init__()
        self.head_dim, self.shared, self.style = 4, 6 // keys, style
        self.q, self.k, self.v = nn.Linear(16, 24), nn.Linear(16, 4 * keys), nn.Linear(16, 4 * keys)
        self.norm, self.o = nn.RMSNorm(4), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q = turned(self.norm(self.q(x).view(shape)).transpose(1, 2))
        k = turned(self.norm(self.k(x).view(shape)).transpose(1, 2))
        v = self.v(x).view(shape).transpose(1, 2)
        if self.style == "repeated":
            k, v = repeated(k, self.shared), repeated(v, self.shared)
        elif self.style == "interleaved":
            k, v = k.repeat_interleave(self.shared, 1), v.repeat_interleave(self.shared, 1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.style == "fused")
        return self.o(y.transpose(1, 2).reshape(*x.shape[:-1], -1))


def turned(x: Tensor) -> Tensor:
    """As rotary embeddings turn q and k."""
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x + 0.5 * torch.cat((-b, a), -1)


def repeated(x: Tensor, times: int) -> Tensor:
    batch, heads, places, width = x.shape
    return x[:, :, None].expand(batch, heads, times, places, width).reshape(batch, heads * times, places, width)


@pytest.mark.parametrize("make", [OwnLines, HeadsAsBatch])
def test_heads_go_whole_where_each_projection_has_a_line_of_its_own(make: type[OwnLines], cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(nn.Sequential(nn.Linear(5, 16), make(), nn.Linear(16, 3)), torch.randn(1, 7, 5))
    assert free == {"0": 16, "1.q": 4, "1.o": 16}
    assert (slim[1].num_heads, slim[1].head_dim, slim[1].all_head_size) == (2, 6, 12)
    assert slim[1].v.out_features == 12


@pytest.mark.parametrize("style", ["repeated", "interleaved", "fused"])
def test_grouped_queries_go_with_the_key_they_share(style: str, cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(nn.Sequential(nn.Linear(5, 16), GroupedQueries(2, style), nn.Linear(16, 3)), torch.randn(1, 7, 5))
    assert free == {"0": 16, "1.q": 2, "1.o": 16}
    assert [slim[1].get_submodule(name).out_features for name in "qkv"] == [12, 4, 4]


def test_where_all_queries_share_one_key_the_queries_go(cut: Cut) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 16), GroupedQueries(1, "repeated"), nn.Linear(16, 3))
    free, slim = cut(module, torch.randn(1, 7, 5))
    assert free["1.q"] == 6
    assert (slim[1].shared, slim[1].q.out_features, slim[1].k.out_features) == (3, 12, 4)
