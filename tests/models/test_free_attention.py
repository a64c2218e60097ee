"""Attention whose number of heads is free computes what PyTorch's attention computes, and its heads can be removed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressor.models.preparation.free_attention import FreeAttention, free_attention
from compressor.surgery.analysis import analyze


def pair(**settings: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 4, **settings).double().eval()
    nn.init.normal_(theirs.out_proj.weight)
    ours = copy.deepcopy(theirs)
    free_attention(ours)
    assert type(ours) is FreeAttention
    return theirs, ours


def same(theirs: nn.Module, ours: nn.Module, *inputs: Tensor, **settings: Any) -> None:
    for one, other in zip(ours(*inputs, **settings), theirs(*inputs, **settings), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention_with_masks(batch_first: bool, need_weights: bool) -> None:
    theirs, ours = pair(batch_first=batch_first)
    x = torch.randn(5, 5, 16, dtype=torch.float64)
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    padding = torch.zeros(5, 5, dtype=torch.bool)
    padding[1, 3:] = True
    settings: dict[str, Any] = {"need_weights": need_weights}
    same(theirs, ours, x, x, x, **settings)
    same(theirs, ours, x, x, x, attn_mask=causal, is_causal=True, **settings)
    same(theirs, ours, x, x, x, key_padding_mask=padding, attn_mask=causal.isinf(), **settings)
    same(theirs, ours, x, x, x, attn_mask=torch.randn(20, 5, 5, dtype=torch.float64), **settings)
    same(theirs, ours, x[0], x[0], x[0], average_attn_weights=False, **settings)


@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}, {"bias": False}])
def test_cross_attention(widths: dict[str, Any]) -> None:
    theirs, ours = pair(batch_first=True, **widths)
    q = torch.randn(2, 3, 16, dtype=torch.float64)
    k, v = (torch.randn(2, 7, widths.get(name, 16), dtype=torch.float64) for name in ("kdim", "vdim"))
    same(theirs, ours, q, k, v)


def test_attention_with_added_keys_stays() -> None:
    for settings in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        module = nn.MultiheadAttention(16, 4, **settings)
        assert free_attention(module) == ()
        assert type(module) is nn.MultiheadAttention


class OneLine(nn.Module):
    """Time first, encoder and decoder, everything on one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 16), nn.Linear(16, 3)
        self.t = nn.Transformer(16, 4, 1, 1, 32, **settings)
        self.q = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.t(self.i(x), self.i(x) + self.q))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("settings", [{}, {"batch_first": True, "norm_first": True}])
def test_heads_of_a_transformer_on_one_line_are_free(settings: dict[str, Any]) -> None:
    module = OneLine(**settings).eval()
    assert free_attention(module)
    graph = analyze(module, torch.randn(5, 2, 6), name="net")
    free = {group.name for group in graph.groups if group.frozen is None}
    attention = {name for name, part in module.named_modules() if isinstance(part, FreeAttention)}
    assert len(attention) == 3
    assert all(any(name.startswith(head) for name in free) for head in attention)
