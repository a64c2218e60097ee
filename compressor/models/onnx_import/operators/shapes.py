"""Operators that only move entries: reshape, transpose, expand, and sizes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressor.models.onnx_import.host import axes_of
from compressor.models.onnx_import.imported_module import Function, OperatorNode
from compressor.models.onnx_import.values import HostArray, Value, host, ints


def _reshape(node: OperatorNode, x: Tensor, shape: Value) -> Tensor:
    written = ints(shape)
    sizes = [x.shape[at] if size == 0 and not node.node.get("allowzero") else size for at, size in enumerate(written)]
    if -1 not in sizes and sizes:
        samples, rest = divmod(x.numel(), max(1, math.prod(sizes)))
        if samples > 1 and rest == 0:
            sizes[0] *= samples  # a file for one sample runs on a batch
    return torch.reshape(x, sizes)


def _flatten(node: OperatorNode, x: Tensor) -> Tensor:
    axis = node.node.get("axis", 1)
    axis += x.ndim * (axis < 0)
    if axis == 1 and x.ndim > 1:
        return torch.flatten(x, 1)
    return torch.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _transpose(node: OperatorNode, x: Tensor) -> Tensor:
    return torch.permute(x, node.node.get("perm", tuple(range(x.ndim))[::-1]))


def _squeeze(node: OperatorNode, x: Tensor, axes: Value = None) -> Tensor:
    places = axes_of(node.node, axes, since=13)
    return torch.squeeze(x) if places is None else torch.squeeze(x, tuple(places))


def _unsqueeze(node: OperatorNode, x: Tensor, axes: Value = None) -> Tensor:
    places = axes_of(node.node, axes, since=13) or []
    rank = x.ndim + len(places)
    for place in sorted(place % rank for place in places):
        x = torch.unsqueeze(x, place)
    return x


def _expand(node: OperatorNode, x: Tensor, shape: Value) -> Tensor:
    """Sizes of one in the shape keep those of x, unlike in PyTorch."""
    sizes = ints(shape)
    sizes = [1] * (x.ndim - len(sizes)) + sizes
    before = [1] * (len(sizes) - x.ndim) + list(x.shape)
    return x.expand([old if new == 1 else new for old, new in zip(before, sizes, strict=True)])


def _shape(node: OperatorNode, x: Tensor) -> HostArray:
    start, end = node.node.get("start", 0), node.node.get("end")
    return host(list(x.shape)[start:end])


def _size(_: OperatorNode, x: Tensor) -> HostArray:
    return host(x.numel())


def _tile(_: OperatorNode, x: Tensor, repeats: Value) -> Tensor:
    return x.repeat(ints(repeats))


def _depth_to_space(node: OperatorNode, x: Tensor) -> Tensor:
    block = node.node.get("blocksize")
    if node.node.get("mode", "DCR") == "CRD":
        return torch.nn.functional.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, channels // block**2, height * block, width * block)


def _space_to_depth(node: OperatorNode, x: Tensor) -> Tensor:
    block = node.node.get("blocksize")
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * block**2, height // block, width // block)


OPERATORS: dict[str, Function] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Shape": _shape,
    "Size": _size,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
