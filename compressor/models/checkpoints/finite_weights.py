"""Which numbers of a weight are not finite. A bound of a clip and a mask of attention are infinite on purpose."""

from __future__ import annotations

import torch
from torch import Tensor


def count_not_finite(tensor: Tensor) -> int:
    """Count the entries that are NaN or infinite.

    Args:
        tensor: A weight or a buffer.

    Returns:
        Their number; 0 for a single infinite number, and for zeros beside minus infinity alone.
    """
    if not tensor.is_floating_point():
        return 0
    finite = torch.isfinite(tensor)
    count = int((~finite).sum())
    if count and not bool(tensor.isnan().any()):
        is_bound = tensor.numel() == 1
        is_mask = bool(finite.any()) and not bool(tensor[finite].any()) and bool(torch.isneginf(tensor[~finite]).all())
        if is_bound or is_mask:
            return 0
    return count
