"""How far the tensors of two passes lie apart, relative to their largest entry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.tensors import to_strided


def differences(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """Compare the tensors of two passes.

    Infinities of one sign do not differ, nor do entries that are NaN in both, such as those of masked logits. An entry
    that is NaN on one side only differs infinitely.

    Args:
        actual: The tensors of one pass.
        expected: Those of the reference, of the same shapes.

    Returns:
        `max|actual - expected|`, and the same over the largest finite `|expected|`; 0 of nothing is 0.
    """
    absolute = max((_max_difference(a, b) for a, b in zip(actual, expected, strict=True)), default=0.0)
    scale = largest_finite(expected)
    return absolute, absolute / scale if scale > 0 else float("inf") if absolute else 0.0


def largest_finite(tensors: Sequence[Tensor]) -> float:
    """Return the largest `|entry|` that is finite, or 0."""
    finite = (tensor[tensor.isfinite()] for tensor in tensors)
    return max((float(entries.abs().max()) for entries in finite if entries.numel()), default=0.0)


def is_close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Test whether two tensors are equal up to rounding.

    Args:
        actual: One tensor.
        expected: The reference.
        tolerance: The largest difference, relative to the largest finite entry of `expected`. Whole numbers are equal.

    Returns:
        False where the shapes differ, too.
    """
    actual, expected = to_strided(actual), to_strided(expected)
    if actual.shape != expected.shape:
        return False
    if not (expected.is_floating_point() or expected.is_complex()):
        return bool((actual == expected).all())
    return differences([actual], [expected])[1] <= tolerance


def _max_difference(actual: Tensor, expected: Tensor) -> float:
    if not actual.numel():
        return 0.0
    is_equal = (actual == expected) | (actual.isnan() & expected.isnan())
    error = torch.where(is_equal, 0.0, (actual - expected).abs())
    return float(torch.where(error.isnan(), torch.inf, error).max())
