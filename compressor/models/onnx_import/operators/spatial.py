"""Operators over the positions of an image or sequence: pooling, sampling, and convolutions by activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressor.models.onnx_import.imported_module import Function, OperatorNode
from compressor.models.onnx_import.node import Node, unsupported
from compressor.models.onnx_import.values import Value, as_tensor, as_tensors, ints


def padding_of(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Compute the padding at the begin and end of each position dimension.

    Args:
        node: A convolution or pooling; `auto_pad` decides where it is set.
        sizes: The sizes of the positions.
        kernel: The size of the window.

    Returns:
        Padding at the begins and at the ends.
    """
    count, mode = len(kernel), node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "", "VALID"):
        pads = list(node.get("pads", (0,) * (2 * count))) if mode != "VALID" else [0] * (2 * count)
        return pads[:count], pads[count:]
    strides = node.get("strides", (1,) * count)
    dilations = node.get("dilations", (1,) * count)
    total = [
        max(0, (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size)
        for size, stride, window, dilation in zip(sizes, strides, kernel, dilations, strict=True)
    ]
    less, more = [pad // 2 for pad in total], [pad - pad // 2 for pad in total]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def as_pad(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Order padding as PyTorch does, from the last dimension.

    Args:
        begins: Padding at the begin of each dimension.
        ends: Padding at the end.

    Returns:
        Pairs, the last dimension first.
    """
    return [amount for pair in zip(reversed(begins), reversed(ends), strict=True) for amount in pair]


def _max_pool(node: OperatorNode, x: Tensor) -> Any:
    one = node.node
    kernel = one.get("kernel_shape")
    begins, ends = padding_of(one, x.shape[2:], kernel)
    strides, dilations = one.get("strides", (1,) * len(kernel)), one.get("dilations", (1,) * len(kernel))
    with_indices = len([name for name in one.outputs if name]) > 1
    if begins != ends or any(2 * pad > size for pad, size in zip(begins, kernel, strict=True)):
        if with_indices:
            raise unsupported(one, "it returns indices and pads its sides unequally")
        x, begins = functional.pad(x, as_pad(begins, ends), value=-torch.inf), [0] * len(kernel)
    pool = getattr(functional, f"max_pool{len(kernel)}d")
    ceil = bool(one.get("ceil_mode", 0))
    return pool(x, kernel, strides, begins, dilations, ceil_mode=ceil, return_indices=with_indices)


def _average_pool(node: OperatorNode, x: Tensor) -> Tensor:
    one = node.node
    kernel = one.get("kernel_shape")
    begins, ends = padding_of(one, x.shape[2:], kernel)
    strides, counted = one.get("strides", (1,) * len(kernel)), bool(one.get("count_include_pad", 0))
    if any(size != 1 for size in one.get("dilations", ())):
        raise unsupported(one, "it pools with dilation")
    ceil = bool(one.get("ceil_mode", 0))
    pool: Callable[..., Tensor] = getattr(functional, f"avg_pool{len(kernel)}d")
    if begins == ends and all(2 * pad <= size for pad, size in zip(begins, kernel, strict=True)):
        return pool(x, kernel, strides, begins, ceil_mode=ceil, count_include_pad=counted)
    padded = functional.pad(x, as_pad(begins, ends))
    if counted:
        return pool(padded, kernel, strides, 0, ceil_mode=ceil)
    inside = functional.pad(torch.ones_like(x[:1, :1]), as_pad(begins, ends))
    return pool(padded, kernel, strides, 0, ceil_mode=ceil) / pool(inside, kernel, strides, 0, ceil_mode=ceil)


def _lp_pool(node: OperatorNode, x: Tensor) -> Tensor:
    p = node.node.get("p", 2)
    kernel = node.node.get("kernel_shape")
    total = _average_pool(node, torch.pow(x.abs(), p)) * math.prod(kernel)
    return torch.pow(total, 1 / p)


def _global(function: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Function:
    return lambda _, x: function(x, tuple(range(2, x.ndim)))


def _global_average(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return functional.adaptive_avg_pool2d(x, 1) if len(axes) == 2 else x.mean(axes, keepdim=True)


def _lrn(node: OperatorNode, x: Tensor) -> Tensor:
    one = node.node
    return functional.local_response_norm(
        x, one.get("size"), one.get("alpha", 1e-4), one.get("beta", 0.75), one.get("bias", 1.0)
    )


def _conv(node: OperatorNode, x: Value, weight: Value, bias: Value = None) -> Tensor:
    """A convolution whose weight is no constant of the file."""
    x, weight = as_tensors(x, weight)
    one, count = node.node, weight.ndim - 2
    begins, ends = padding_of(one, x.shape[2:], weight.shape[2:])
    if begins != ends:
        x, begins = functional.pad(x, as_pad(begins, ends)), [0] * count
    function: Callable[..., Tensor] = getattr(functional, f"conv{count}d")
    strides, dilations = one.get("strides", (1,) * count), one.get("dilations", (1,) * count)
    added = None if bias is None else as_tensor(bias, x)
    return function(x, weight, added, strides, begins, dilations, one.get("group", 1))


def _instance_norm(node: OperatorNode, x: Tensor, scale: Value, shift: Value) -> Tensor:
    weights = as_tensor(scale, x), as_tensor(shift, x)
    return functional.instance_norm(x, weight=weights[0], bias=weights[1], eps=node.node.get("epsilon", 1e-5))


def _grid_sample(node: OperatorNode, x: Value, grid: Value) -> Tensor:
    x, grid = as_tensors(x, grid)
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(kind := node.node.get("mode", "bilinear"), kind)
    corners = bool(node.node.get("align_corners", 0))
    return functional.grid_sample(x, grid, mode, node.node.get("padding_mode", "zeros"), corners)


def _roi_align(node: OperatorNode, x: Value, boxes: Value, batches: Value) -> Tensor:
    from torchvision.ops import roi_align

    (x, boxes), one = as_tensors(x, boxes), node.node
    if one.get("mode", "avg") != "avg":
        raise unsupported(one, f"its mode is {one.get('mode')}")
    half = one.get("coordinate_transformation_mode", "half_pixel" if one.opset >= 16 else "output_half_pixel")
    which = as_tensor(batches, x).to(boxes.dtype).reshape(-1, 1)
    size = one.get("output_height", 1), one.get("output_width", 1)
    rois = torch.cat([which, boxes], 1)
    scale, ratio = one.get("spatial_scale", 1.0), one.get("sampling_ratio", 0)
    pooled: Tensor = roi_align(x, rois, size, scale, ratio, half == "half_pixel")
    return pooled


def _depth_im(node: OperatorNode, x: Tensor, image: Value, block: Value) -> Tensor:
    one, count = node.node, len(ints(image))
    pads = list(one.get("pads", (0,) * (2 * count)))
    if pads[:count] != pads[count:]:
        raise unsupported(one, "it pads its sides unequally")
    dilations, strides = one.get("dilations", (1,) * count), one.get("strides", (1,) * count)
    sizes = [tuple(values) for values in (ints(image), ints(block), dilations, pads[:count], strides)]
    return functional.fold(x, *sizes)


OPERATORS: dict[str, Function] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global(_global_average),
    "GlobalMaxPool": _global(lambda x, axes: x.amax(axes, keepdim=True)),
    "LRN": _lrn,
    "Conv": _conv,
    "InstanceNormalization": _instance_norm,
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
    "Col2Im": _depth_im,
}
