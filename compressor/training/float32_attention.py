"""Attention in float32 where autocast would compute it in bfloat16.

Milliseconds of attention and its gradients with 64 channels a head, one of two busy cores of a Xeon with AMX:

    images x heads   positions   bfloat16   float32, from and to bfloat16
    32 x 3                  17         33       2
    32 x 3                  50         62      28
    16 x 3                 197        100      93
     4 x 6                 577        272     247
     2 x 8                2048       1128    1751
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_POSITIONS = 1024


@contextmanager
def attention_in_float32() -> Iterator[None]:
    """Compute `scaled_dot_product_attention` over up to MOST_POSITIONS in float32; the result has autocast's type."""
    attention = F.scaled_dot_product_attention

    @wraps(attention)
    def _in_float32(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        device = query.device.type
        if key.shape[-2] > MOST_POSITIONS or not torch.is_autocast_enabled(device):
            return attention(query, key, value, attn_mask, *args, **kwargs)
        mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
        with torch.autocast(device, enabled=False):
            result = attention(query.float(), key.float(), value.float(), mask, *args, **kwargs)
        return result.to(torch.get_autocast_dtype(device))

    F.scaled_dot_product_attention = _in_float32
    try:
        yield
    finally:
        F.scaled_dot_product_attention = attention
