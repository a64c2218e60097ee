"""Resize and Upsample: PyTorch's interpolation where it means the same, else one weighted sum for each dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compressor.models.onnx_import.imported_module import Function, OperatorNode
from compressor.models.onnx_import.node import Node, unsupported
from compressor.models.onnx_import.values import Value, ints


def _resize(node: OperatorNode, x: Tensor, *arguments: Value) -> Tensor:
    one = node.node
    roi, scales, sizes = _arguments(one, x, *arguments)
    axes = [axis % x.ndim for axis in one.get("axes", range(x.ndim))]
    if roi is not None and one.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise unsupported(one, "it crops and resizes")
    target, factors = list(x.shape), [1.0] * x.ndim
    for index, axis in enumerate(axes):
        if sizes is not None:
            target[axis] = sizes[index]
            factors[axis] = sizes[index] / x.shape[axis]
        elif scales is not None:
            factors[axis] = scales[index]
            target[axis] = int(x.shape[axis] * scales[index])
    if sizes is not None and one.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise unsupported(one, "it keeps the aspect ratio")
    if sizes is not None:
        target[:2] = x.shape[:2] if target[0] == 1 else target[:2]  # a file for one sample runs on a batch
    moved = [axis for axis in range(x.ndim) if target[axis] != x.shape[axis]]
    if not moved:
        return x
    if all(axis >= 2 for axis in moved) and (done := _interpolate(one, x, target, factors, sizes is None)) is not None:
        return done
    for axis in moved:
        x = _along(one, x, axis, target[axis], factors[axis])
    return x


def _arguments(node: Node, x: Tensor, *arguments: Value) -> tuple[Value, list[float] | None, list[int] | None]:
    """Region, scales and sizes, wherever this opset has them."""
    if node.op == "Upsample":
        written = node.get("scales", ())
        return None, list(written) if node.opset < 9 else _floats(arguments[0]), None
    if node.opset < 11:
        return None, _floats(arguments[0]), None
    roi, scales, sizes = (*arguments, None, None, None)[:3]
    return roi, _floats(scales) or None, (None if sizes is None else ints(sizes)) or None


def _floats(value: Value) -> list[float]:
    return [] if value is None else [float(entry) for entry in value.reshape(-1).tolist()]


def _coordinates(node: Node) -> str:
    if node.op == "Upsample" or node.opset < 11:
        return "asymmetric"
    mode: str = node.get("coordinate_transformation_mode", "half_pixel")
    return mode


def _interpolate(
    node: Node, x: Tensor, target: Sequence[int], factors: Sequence[float], by_scale: bool
) -> Tensor | None:
    """Use PyTorch's interpolation; None where it rounds or samples in another way."""
    mode, coordinates, count = node.get("mode", "nearest"), _coordinates(node), x.ndim - 2
    integral = all(float(factor).is_integer() for factor in factors)
    exact = [int(size * factor) == new for size, factor, new in zip(x.shape, factors, target, strict=True)]
    if mode == "nearest":
        rounding = _nearest_mode(node)
        floors = coordinates == "asymmetric" and rounding == "floor" and all(exact)
        halves = coordinates == "half_pixel" and integral and rounding.startswith("round")
        if 1 <= count <= 3 and (floors or halves):
            return functional.interpolate(x, tuple(target[2:]), mode="nearest")
        return None
    if node.get("antialias", 0) or node.get("exclude_outside", 0):
        return None
    names = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}
    name = names.get((mode, count))
    if name is None or coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return None
    if name == "bicubic" and node.get("cubic_coeff_a", -0.75) != -0.75:
        return None
    if coordinates == "half_pixel" and any(new == 1 for new in target[2:]):
        return None
    same = all(abs(new / size - factor) < 1e-9 for size, factor, new in zip(x.shape, factors, target, strict=True))
    corners = coordinates == "align_corners"
    if same or not by_scale or corners:
        return functional.interpolate(x, tuple(target[2:]), mode=name, align_corners=corners)
    scale = tuple(factors[2:])
    return functional.interpolate(x, scale_factor=scale, mode=name, align_corners=False, recompute_scale_factor=False)


def _along(node: Node, x: Tensor, axis: int, size: int, factor: float) -> Tensor:
    """Resize one dimension: every result is a weighted sum of a few entries."""
    if node.get("antialias", 0):
        raise unsupported(node, "it resizes with antialiasing")
    mode, count = node.get("mode", "nearest"), x.shape[axis]
    places = _places(_coordinates(node), size, count, factor)
    if mode == "nearest":
        return torch.index_select(x, axis, _rounded(node, places).clamp(0, count - 1).long().to(x.device))
    offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
    low = torch.floor(places)
    weights = [_weight(node, (places - low - offset).abs(), mode) for offset in offsets]
    if node.get("exclude_outside", 0):
        inside = [((low + offset >= 0) & (low + offset < count)).to(places.dtype) for offset in offsets]
        weights = [weight * mask for weight, mask in zip(weights, inside, strict=True)]
        total = torch.stack(weights).sum(0)
        weights = [weight / total for weight in weights]
    spread = [1] * x.ndim
    spread[axis] = size
    parts = [
        torch.index_select(x, axis, (low + offset).clamp(0, count - 1).long().to(x.device))
        * weight.reshape(spread).to(device=x.device, dtype=x.dtype)
        for offset, weight in zip(offsets, weights, strict=True)
    ]
    return torch.stack(parts).sum(0)


def _places(coordinates: str, size: int, count: int, factor: float) -> Tensor:
    """Where each result lies in the input."""
    at = torch.arange(size, dtype=torch.float64, device="cpu")
    match coordinates:
        case "asymmetric":
            return at / factor
        case "align_corners":
            return at * (count - 1) / (size - 1) if size > 1 else at
        case "pytorch_half_pixel" if size == 1:
            return at
        case "half_pixel_symmetric":
            centre = count / 2 * (1 - size / (factor * count))
            return centre + (at + 0.5) / factor - 0.5
    return (at + 0.5) / factor - 0.5


def _nearest_mode(node: Node) -> str:
    mode: str = node.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
    return mode


def _rounded(node: Node, places: Tensor) -> Tensor:
    match _nearest_mode(node):
        case "floor":
            return torch.floor(places)
        case "ceil":
            return torch.ceil(places)
        case "round_prefer_ceil":
            return torch.floor(places + 0.5)
    return torch.ceil(places - 0.5)


def _weight(node: Node, distance: Tensor, mode: str) -> Tensor:
    if mode == "linear":
        return (1 - distance).clamp(min=0)
    a = node.get("cubic_coeff_a", -0.75)
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


OPERATORS: dict[str, Function] = {"Resize": _resize, "Upsample": _resize}
