"""N:M weights stored as what is not zero and where in its group it stands.

A weight (K, C, *) becomes values (K, C N/M, *) and one row of bytes with the places, 2 bits each for M = 4, the lowest
bits first. For 2:4 that is 9/16 of a dense float16 tensor and 17/32 of a float32 one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.core import NMPattern
from compressor.sparsity.nm_masks import magnitude_mask, satisfies_pattern
from compressor.sparsity.runtimes import SIZES

VALUES, PLACES = "nm_values", "nm_places"


def pack(tensors: Mapping[str, Tensor], patterns: Mapping[str, NMPattern]) -> dict[str, Tensor]:
    """The tensors, those that have a pattern packed; each of them keeps its rule."""
    packed = dict(tensors)
    for name, pattern in patterns.items():
        values, places = pack_one(packed.pop(name), pattern)
        packed |= {f"{name}.{VALUES}": values, f"{name}.{PLACES}": places}
    return packed


def unpack(tensors: Mapping[str, Tensor], patterns: Mapping[str, NMPattern]) -> dict[str, Tensor]:
    """What `pack` was given, bit for bit but for the sign of zeros. Raises ValueError, naming the tensor."""
    dense = dict(tensors)
    for name, pattern in patterns.items():
        try:
            values, places = dense.pop(f"{name}.{VALUES}"), dense.pop(f"{name}.{PLACES}")
        except KeyError as error:
            raise ValueError(f"no tensor {error.args[0]}") from None
        try:
            dense[name] = unpack_one(values, places, pattern)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return dense


def pack_one(weight: Tensor, pattern: NMPattern) -> tuple[Tensor, Tensor]:
    """(K, C, *) -> values (K, C N/M, *), places uint8."""
    assert satisfies_pattern(weight, pattern), f"not a {pattern} weight"
    m = pattern.m
    kept = magnitude_mask(weight, pattern).movedim(1, -1)
    values = weight.movedim(1, -1)[kept].reshape(*kept.shape[:-1], -1).movedim(-1, 1).contiguous()
    places = kept.reshape(-1, m).nonzero()[:, 1].to(torch.uint8)  # n for each group
    per_byte = 8 // _bits(m)
    rows = torch.nn.functional.pad(places, (0, -len(places) % per_byte)).reshape(-1, per_byte)
    shifts = torch.arange(per_byte, dtype=torch.uint8) * _bits(m)
    return values, (rows << shifts).sum(dim=1, dtype=torch.uint8)


def unpack_one(values: Tensor, places: Tensor, pattern: NMPattern) -> Tensor:
    """Raises ValueError where values and places do not fit each other."""
    n, m = pattern
    if not 0 < n < m or m not in SIZES:
        raise ValueError(f"no pattern {pattern}")
    if values.ndim < 2 or values.shape[1] % n or places.dtype != torch.uint8 or places.ndim != 1:
        raise ValueError(f"values of shape {tuple(values.shape)} are not packed {pattern}")
    bits = _bits(m)
    if len(places) != math.ceil(values.numel() * bits / 8):
        raise ValueError(f"{len(places)} bytes of places for {values.numel()} values")
    shifts = torch.arange(8 // bits, dtype=torch.uint8) * bits
    unfolded = ((places[:, None] >> shifts) & ((1 << bits) - 1)).flatten()[: values.numel()].long().reshape(-1, n)
    if bool((unfolded >= m).any()) or bool((unfolded.diff(dim=1) <= 0).any()):
        raise ValueError("places are not increasing within their group")
    moved = values.movedim(1, -1)
    parts = values.new_zeros(len(unfolded), m).scatter_(1, unfolded, moved.reshape(-1, n))
    return parts.reshape(*moved.shape[:-1], moved.shape[-1] // n * m).movedim(-1, 1).contiguous()


def _bits(m: int) -> int:
    return {2: 1, 4: 2, 8: 4, 16: 4}[m]
