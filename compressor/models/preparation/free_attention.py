"""PyTorch's attention with a number of heads that is free of the width of its input.

`nn.MultiheadAttention` takes for granted that its heads together are as wide as its input, so that none can be removed.
The class here has the same parameters and computes the same; it reads the number of heads from its weights.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FreeAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads can be removed."""

    scale: float
    """of the scores, 1 / sqrt(D) for the D channels of a head of the dense model"""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as `nn.MultiheadAttention.forward` does.

        Args:
            query: (B, L, E) with `batch_first`, (L, B, E) without, (L, E) of one sample.
            key: The same with S positions.
            value: The same with S positions.
            key_padding_mask: (B, S) or (S,): positions that are ignored, or numbers to add.
            need_weights: Whether the weights of attention are returned.
            attn_mask: (L, S) or (B * heads, L, S): pairs that are ignored, or numbers to add.
            average_attn_weights: Whether weights are averaged over heads.
            is_causal: A hint that `attn_mask` is causal; the mask itself is used.

        Returns:
            The output in the layout of `query`, and the weights (B, L, S), or (B, heads, L, S).
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        single = query.dim() == 2
        batch_dim = 0 if self.batch_first or single else 1
        same = query is key is value
        query, key, value = self._batched(query, single), self._batched(key, single), self._batched(value, single)
        q, k, v = self._projected(query, key, value, same)
        q = q.view(*q.shape[:2], -1, self.head_dim).transpose(1, 2)
        k = k.view(*k.shape[:2], -1, self.head_dim).transpose(1, 2)
        v = v.view(*v.shape[:2], -1, self.head_dim).transpose(1, 2)
        mask = _added(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.scale
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            attended = weights @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        output = self.out_proj(attended.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output.transpose(0, 1) if batch_dim else output, weights

    def _batched(self, tensor: Tensor, single: bool) -> Tensor:
        """Return (B, positions, channels)."""
        if single:
            return tensor.unsqueeze(0)
        return tensor if self.batch_first else tensor.transpose(0, 1)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor, same: bool) -> tuple[Tensor, Tensor, Tensor]:
        if self.in_proj_weight is not None and same:
            q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
            return q, k, v
        if self.in_proj_weight is not None:
            of_q, of_k, of_v = self.in_proj_weight.chunk(3)
        else:
            of_q, of_k, of_v = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        q, k, v = F.linear(query, of_q), F.linear(key, of_k), F.linear(value, of_v)
        if self.in_proj_bias is None:
            return q, k, v
        bias_q, bias_k, bias_v = self.in_proj_bias.chunk(3)
        return q + bias_q, k + bias_k, v + bias_v


def _added(attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """What is added to the scores (B, heads, L, S): masks as numbers, those of pairs beside those of positions."""
    masks = []
    if attn_mask is not None:
        mask = _numbers(attn_mask, like)
        masks.append(mask if mask.dim() == 2 else mask.view(len(like), -1, *mask.shape[1:]))
    if key_padding_mask is not None:
        mask = _numbers(key_padding_mask, like)
        masks.append(mask[None, None] if mask.dim() == 1 else mask[:, None, None])
    return sum(masks[1:], masks[0]) if masks else None


def _numbers(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def _unpack(attention: nn.MultiheadAttention) -> None:
    """Store the weights of queries, keys and values apart, as where their inputs have different widths."""
    packed = attention.in_proj_weight
    if packed is None:
        return
    for name, weight in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), packed.chunk(3), strict=True):
        setattr(attention, name, nn.Parameter(weight.detach().clone(), packed.requires_grad))
    attention.register_parameter("in_proj_weight", None)
    attention._qkv_same_embed_dim = False


def free_attention(module: nn.Module) -> tuple[str, ...]:
    """Let the attention modules of PyTorch in a module read the number of heads from their weights.

    Those with added keys, which few networks have, stay as they are.

    Args:
        module: The module, which is changed. What it computes stays.

    Returns:
        A note that counts them, if there are any.
    """
    count = 0
    for part in list(module.modules()):
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False  # only the kernel of fixed heads takes nested tensors
        if isinstance(part, nn.TransformerDecoderLayer):
            _unpack(part.multihead_attn)
        if type(part) is nn.MultiheadAttention and part.bias_k is None and not part.add_zero_attn:
            part.__class__ = FreeAttention
            cast(FreeAttention, part).scale = 1 / math.sqrt(part.head_dim)  # of the dense heads, whatever is removed
            part._qkv_same_embed_dim = False  # encoder layers then call forward, not a kernel of fixed heads
            count += 1
    return (f"the heads of {count} nn.MultiheadAttention can be removed",) if count else ()
