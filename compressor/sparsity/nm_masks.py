"""N:M masks: of every M consecutive weights along the reduction dimension at most N are not zero.

The reduction dimension of a linear layer (K, C) is C; that of a convolution (K, C/groups, *) is its second one, at a
fixed place of the kernel, which is the grouping that sparse tensor cores read. Grouping the flattened kernel instead
gives tensors no runtime takes, unless the kernel is 1x1.
Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378.

Shapes: K outputs   C entries of the reduction dimension   * kernel positions   M size of a group
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.core import NMPattern


def magnitude_mask(weight: Tensor, pattern: NMPattern) -> Tensor:
    """True for the N largest |w| of each group of M: the pattern of largest sum among all `M over N` of them.

    `weight`: (K, C, *) with C a multiple of M; the mask has its shape. Of equal magnitudes the first are kept, so
    that the same weights give the same mask on every machine.
    """
    n, m = pattern
    parts = _groups(weight.detach().abs(), m)
    kept = torch.empty_like(parts, dtype=torch.bool)
    for place in range(m):
        own = parts[:, :, place]
        larger = torch.zeros_like(own, dtype=torch.int8)
        for other in range(m):
            if other != place:
                theirs = parts[:, :, other]
                larger += theirs >= own if other < place else theirs > own
        kept[:, :, place] = larger < n
    return kept.reshape(weight.shape)


def satisfies_pattern(weight: Tensor, pattern: NMPattern) -> bool:
    """Whether every group of M has at most N that are not zero; False where C is not a multiple of M."""
    n, m = pattern
    if weight.ndim < 2 or weight.shape[1] % m:
        return False
    return bool((_groups(weight.detach() != 0, m).sum(dim=2) <= n).all())


def retained_share(weight: Tensor, mask: Tensor) -> float:
    """sum |w| over the mask / sum |w|; 1 for a tensor of zeros."""
    magnitude = weight.detach().abs().double()
    total = float(magnitude.sum())
    return float(magnitude[mask].sum()) / total if total else 1.0


def upper_bound_share(weight: Tensor, pattern: NMPattern) -> float:
    """The same for the largest N/M of all weights of the tensor, wherever they are: what no order can exceed."""
    n, m = pattern
    magnitude = weight.detach().abs().double().flatten()
    total = float(magnitude.sum())
    return float(magnitude.topk(magnitude.numel() * n // m).values.sum()) / total if total else 1.0


def _groups(weight: Tensor, m: int) -> Tensor:
    """(K, C, *) as (K, C/M, M, positions), a view."""
    return weight.reshape(weight.shape[0], weight.shape[1] // m, m, -1)
