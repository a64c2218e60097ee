"""N:M weights stored as kept values and their positions within each group.

A weight (K, C, *) becomes values (K, C N/M, *) and a row of bytes with the positions, 2 bits each for M = 4, lowest
bits first. 2:4 weights take 9/16 of the size of a dense float16 tensor and 17/32 of a float32 one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.core import NMPattern
from compressor.sparsity.nm_masks import magnitude_mask, satisfies_pattern
from compressor.sparsity.runtimes import SIZES

VALUES, POSITIONS = "nm_values", "nm_places"


def pack(tensors: Mapping[str, Tensor], patterns: Mapping[str, NMPattern]) -> dict[str, Tensor]:
    """Pack the tensors that have a pattern.

    Args:
        tensors: All tensors by name.
        patterns: Tensor name -> the pattern that it satisfies.

    Returns:
        The tensors, each packed one as `<name>.nm_values` and `<name>.nm_places`.
    """
    packed = dict(tensors)
    for name, pattern in patterns.items():
        values, positions = pack_weight(packed.pop(name), pattern)
        packed |= {f"{name}.{VALUES}": values, f"{name}.{POSITIONS}": positions}
    return packed


def unpack(tensors: Mapping[str, Tensor], patterns: Mapping[str, NMPattern]) -> dict[str, Tensor]:
    """Restore the tensors that `pack` was given, bit for bit except for the sign of zeros.

    Args:
        tensors: All tensors by name, as `pack` returned them.
        patterns: Name of each packed tensor -> its pattern.

    Returns:
        All tensors, dense.

    Raises:
        ValueError: A packed tensor is missing or malformed.
    """
    dense = dict(tensors)
    for name, pattern in patterns.items():
        try:
            values, positions = dense.pop(f"{name}.{VALUES}"), dense.pop(f"{name}.{POSITIONS}")
        except KeyError as error:
            raise ValueError(f"no tensor {error.args[0]}") from None
        try:
            dense[name] = unpack_weight(values, positions, pattern)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return dense


def pack_weight(weight: Tensor, pattern: NMPattern) -> tuple[Tensor, Tensor]:
    """Pack one weight.

    Args:
        weight: (K, C, *), which satisfies the pattern.
        pattern: N and M.

    Returns:
        The kept values (K, C N/M, *) and their positions, uint8.
    """
    assert satisfies_pattern(weight, pattern), f"not a {pattern} weight"
    m = pattern.m
    kept = magnitude_mask(weight, pattern).movedim(1, -1)
    values = weight.movedim(1, -1)[kept].reshape(*kept.shape[:-1], -1).movedim(-1, 1).contiguous()
    positions = kept.reshape(-1, m).nonzero()[:, 1].to(torch.uint8)  # n for each group
    per_byte = 8 // _bits(m)
    rows = torch.nn.functional.pad(positions, (0, -len(positions) % per_byte)).reshape(-1, per_byte)
    shifts = torch.arange(per_byte, dtype=torch.uint8) * _bits(m)
    return values, (rows << shifts).sum(dim=1, dtype=torch.uint8)


def unpack_weight(values: Tensor, positions: Tensor, pattern: NMPattern) -> Tensor:
    """Restore one weight.

    Args:
        values: The kept values (K, C N/M, *).
        positions: Their positions, uint8.
        pattern: N and M.

    Returns:
        The weight (K, C, *).

    Raises:
        ValueError: Values and positions do not match.
    """
    n, m = pattern
    if not 0 < n < m or m not in SIZES:
        raise ValueError(f"no pattern {pattern}")
    if values.ndim < 2 or values.shape[1] % n or positions.dtype != torch.uint8 or positions.ndim != 1:
        raise ValueError(f"values of shape {tuple(values.shape)} are not packed {pattern}")
    bits = _bits(m)
    if len(positions) != math.ceil(values.numel() * bits / 8):
        raise ValueError(f"{len(positions)} bytes of positions for {values.numel()} values")
    shifts = torch.arange(8 // bits, dtype=torch.uint8) * bits
    unfolded = ((positions[:, None] >> shifts) & ((1 << bits) - 1)).flatten()[: values.numel()].long().reshape(-1, n)
    if bool((unfolded >= m).any()) or bool((unfolded.diff(dim=1) <= 0).any()):
        raise ValueError("positions are not increasing within their group")
    moved = values.movedim(1, -1)
    groups = values.new_zeros(len(unfolded), m).scatter_(1, unfolded, moved.reshape(-1, n))
    return groups.reshape(*moved.shape[:-1], moved.shape[-1] // n * m).movedim(-1, 1).contiguous()


def _bits(m: int) -> int:
    return {2: 1, 4: 2, 8: 4, 16: 4}[m]
