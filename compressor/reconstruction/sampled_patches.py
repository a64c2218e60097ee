"""The sampled output positions of a layer, and the input columns that each of them is computed from.

A sample is one output position of one image. Its columns are in the order of `weight.reshape(O, -1)`: channel, then
kernel position. Patches are taken from the padded input with the layer's own stride and dilation, because borders are
up to half of all positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution reads its input; spatial dimensions in order."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # before, after
    dilation: tuple[int, ...]
    transposed: bool = False


def sample_positions(shape: tuple[int, ...], per_image: int, images: int, generator: torch.Generator) -> Tensor:
    """Draw output positions without replacement, `per_image` for each image or all where there are fewer.

    Args:
        shape: Leading dimension, then the positions' dimensions, such as (N, H, W) or (N, tokens).
        per_image: Positions of one image.
        images: Images in the batch; the leading dimension may hold several crops or windows of each.
        generator: The seeded source of the draw.

    Returns:
        Indices (N, P) into the flattened positions of each entry of the leading dimension.
    """
    entries, places = shape[0], math.prod(shape[1:])
    count = max(1, min(places, per_image * images // max(entries, 1)))
    if count == places:
        return torch.arange(places).expand(entries, places)
    return torch.rand(entries, places, generator=generator).topk(count, dim=1).indices


def take(values: Tensor, positions: Tensor) -> Tensor:
    """Gather channels at sampled positions.

    Args:
        values: (N, C, *).
        positions: (N, P) into the flattened positions.

    Returns:
        (N * P, C).
    """
    flat = values.flatten(2)
    index = positions.to(flat.device).unsqueeze(1).expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).reshape(-1, flat.shape[1])


def patches(values: Tensor, positions: Tensor, window: Window, sizes: tuple[int, ...]) -> Tensor:
    """Gather the input columns of sampled output positions.

    Args:
        values: Input (N, C, *).
        positions: (N, P) into the flattened output positions.
        window: How the convolution reads its input.
        sizes: Spatial sizes of the output.

    Returns:
        (N * P, C * K) with the kernel position innermost.
    """
    positions = positions.to(values.device)
    if window.transposed:
        index, valid = _transposed_index(positions, window, sizes, tuple(values.shape[2:]))
    else:
        edges = [edge for pair in reversed(window.padding) for edge in pair]
        values = F.pad(values, edges) if any(edges) else values
        index, valid = _index(positions, window, sizes, tuple(values.shape[2:])), None
    entries, channels = values.shape[:2]
    count, taps = index.shape[1:]
    flat = values.flatten(2).gather(2, index.reshape(entries, 1, -1).expand(-1, channels, -1))
    columns = flat.reshape(entries, channels, count, taps)
    if valid is not None:
        columns = columns * valid.unsqueeze(1)
    return columns.permute(0, 2, 1, 3).reshape(entries * count, channels * taps)


def _coordinates(positions: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Flat positions as one coordinate for each spatial dimension."""
    coordinates = []
    for size in reversed(sizes):
        coordinates.append(positions % size)
        positions = positions // size
    return coordinates[::-1]


def _taps(window: Window) -> list[Tensor]:
    """Offsets (K,) of the kernel positions along each spatial dimension, dilated."""
    grids = torch.meshgrid(*(torch.arange(size) for size in window.kernel), indexing="ij")
    return [grid.reshape(-1) * step for grid, step in zip(grids, window.dilation, strict=True)]


def _index(positions: Tensor, window: Window, sizes: tuple[int, ...], padded: tuple[int, ...]) -> Tensor:
    """(N, P, K) indices into the flattened padded input."""
    index = torch.zeros(1, dtype=torch.int64, device=positions.device)
    for at, (coordinate, tap) in enumerate(zip(_coordinates(positions, sizes), _taps(window), strict=True)):
        place = coordinate.unsqueeze(-1) * window.stride[at] + tap.to(positions.device)
        index = index * padded[at] + place
    return index


def _transposed_index(
    positions: Tensor, window: Window, sizes: tuple[int, ...], inputs: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """(N, P, K) indices into the flattened input, and a mask of those that contribute to the output position."""
    index = torch.zeros(1, dtype=torch.int64, device=positions.device)
    valid = torch.ones(1, dtype=torch.bool, device=positions.device)
    for at, (coordinate, tap) in enumerate(zip(_coordinates(positions, sizes), _taps(window), strict=True)):
        reach = coordinate.unsqueeze(-1) + window.padding[at][0] - tap.to(positions.device)
        place = reach.div(window.stride[at], rounding_mode="floor")
        valid = valid & (reach % window.stride[at] == 0) & (place >= 0) & (place < inputs[at])
        index = index * inputs[at] + place.clamp(0, inputs[at] - 1)
    return index, valid
