"""N:M masks: at most N of every M consecutive weights along the reduction dimension are not zero.

The reduction dimension of a linear layer (K, C) is C. That of a convolution (K, C/groups, *) is its second one, at a
fixed position of the kernel, because sparse tensor cores group weights like this. Groups of the flattened kernel would
give tensors that no runtime accepts, unless the kernel is 1x1.
Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378.

Shapes: K outputs   C entries of the reduction dimension   * kernel positions   M size of a group
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.core import NMPattern


def magnitude_mask(weight: Tensor, pattern: NMPattern) -> Tensor:
    """Keep the N largest |w| of each group of M.

    Of equal magnitudes the first are kept, so that the same weights give the same mask on every machine.

    Args:
        weight: (K, C, *) with C a multiple of M.
        pattern: N and M.

    Returns:
        True for kept weights, (K, C, *).
    """
    n, m = pattern
    magnitudes = _groups(weight.detach().abs(), m)
    kept = torch.empty_like(magnitudes, dtype=torch.bool)
    for index in range(m):
        magnitude = magnitudes[:, :, index]
        larger = torch.zeros_like(magnitude, dtype=torch.int8)
        for other in range(m):
            if other != index:
                compare = torch.ge if other < index else torch.gt
                larger += compare(magnitudes[:, :, other], magnitude)
        kept[:, :, index] = larger < n
    return kept.reshape(weight.shape)


def satisfies_pattern(weight: Tensor, pattern: NMPattern) -> bool:
    """Check that at most N weights of every group of M are not zero.

    Args:
        weight: (K, C, *).
        pattern: N and M.

    Returns:
        Whether the pattern holds; False if C is not a multiple of M.
    """
    n, m = pattern
    if weight.ndim < 2 or weight.shape[1] % m:
        return False
    return not weight.numel() or bool((_groups(weight.detach() != 0, m).sum(dim=2) <= n).all())


def retained_share(weight: Tensor, mask: Tensor) -> float:
    """Compute sum |w| over the kept weights / sum |w|.

    Args:
        weight: (K, C, *).
        mask: True for kept weights, (K, C, *).

    Returns:
        The share, 0 to 1; 1 for a tensor of zeros.
    """
    magnitude = weight.detach().abs().double()
    total = float(magnitude.sum())
    return float(magnitude[mask].sum()) / total if total else 1.0


def upper_bound_share(weight: Tensor, pattern: NMPattern) -> float:
    """Compute the share that the largest N/M of all weights of the tensor hold; no order of channels exceeds it.

    Args:
        weight: (K, C, *).
        pattern: N and M.

    Returns:
        The share of sum |w|, 0 to 1; 1 for a tensor of zeros.
    """
    n, m = pattern
    magnitude = weight.detach().abs().double().flatten()
    total = float(magnitude.sum())
    return float(magnitude.topk(magnitude.numel() * n // m).values.sum()) / total if total else 1.0


def values_behind_mask(weight: Tensor, mask: Tensor, dense: Tensor, pattern: NMPattern) -> Tensor:
    """Fill the zeros of a masked weight with their values before masking; kept weights stay the largest of their group.

    Where a kept weight has become smaller, as by reconstruction, the filled values of its group are reduced to just
    below the smallest kept one: `magnitude_mask` of the result is the mask.

    Args:
        weight: The masked weight (K, C, *).
        mask: True for kept weights, (K, C, *).
        dense: The values from before the masking (K, C, *).
        pattern: N and M.

    Returns:
        (K, C, *).
    """
    kept = _groups(weight.detach().abs().masked_fill(~mask, torch.inf), pattern[1])
    smallest = kept.amin(dim=2, keepdim=True).expand_as(kept).reshape(weight.shape)
    below = torch.nextafter(smallest, torch.zeros_like(smallest)).copysign(dense)
    filled = torch.where(dense.abs() >= smallest, below, dense)
    return torch.where(mask, weight, filled)


def _groups(weight: Tensor, m: int) -> Tensor:
    """View (K, C, *) as (K, C/M, M, kernel positions)."""
    return weight.reshape(weight.shape[0], weight.shape[1] // m, m, -1)
