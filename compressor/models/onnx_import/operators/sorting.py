"""Operators that choose by value: sorting, thresholds, boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressor.models.onnx_import.imported_module import Function, OperatorNode
from compressor.models.onnx_import.node import unsupported
from compressor.models.onnx_import.values import Value, scalar


def _top_k(node: OperatorNode, x: Tensor, k: Value = None) -> Any:
    count = node.node.get("k") if node.node.opset < 10 else int(scalar(k))
    axis, largest = node.node.get("axis", -1), bool(node.node.get("largest", 1))
    order = torch.sort(x, dim=axis, descending=largest, stable=True)  # equal values by index, as ONNX wants it
    return order.values.narrow(axis, 0, count), order.indices.narrow(axis, 0, count)


def _non_zero(_: OperatorNode, x: Tensor) -> Tensor:
    return torch.nonzero(x).t()


def _unique(node: OperatorNode, x: Tensor) -> Any:
    if len([name for name in node.node.outputs if name]) > 1 or not node.node.get("sorted", 1):
        raise unsupported(node.node, "it returns indices, or is not sorted")
    return torch.unique(x, dim=node.node.get("axis"))


def _non_max_suppression(
    node: OperatorNode,
    boxes: Tensor,
    scores: Tensor,
    most: Value = None,
    overlap: Value = None,
    least: Value = None,
) -> Tensor:
    """Rows (sample, class, box), for each sample and class in the order of the scores."""
    from torchvision.ops import nms

    count = 0 if most is None else int(scalar(most))
    iou = 0.0 if overlap is None else float(scalar(overlap))
    rows = [torch.empty(0, 3, dtype=torch.int64, device=boxes.device)]
    if node.node.get("center_point_box", 0):
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        corners = torch.cat([centre - half, centre + half], -1)
    else:
        low, high = torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])
        corners = torch.cat([low, high], -1)
    for sample in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            values = scores[sample, kind]
            alive = torch.arange(len(values), device=values.device)
            if least is not None:
                alive = torch.nonzero(values > scalar(least)).reshape(-1)
            chosen = alive[nms(corners[sample][alive], values[alive], iou)][:count]
            places = torch.tensor([[sample, kind]], device=boxes.device).expand(len(chosen), 2)
            rows.append(torch.cat([places, chosen[:, None]], 1))
    return torch.cat(rows)


def _range(_: OperatorNode, start: Value, limit: Value, delta: Value) -> Tensor:
    like = next(value for value in (start, limit, delta) if isinstance(value, Tensor))
    return torch.arange(scalar(start), scalar(limit), scalar(delta), dtype=like.dtype, device=like.device)


def _bernoulli(node: OperatorNode, *_: Tensor) -> Tensor:
    raise unsupported(node.node, "it draws random numbers")


OPERATORS: dict[str, Function] = {
    "TopK": _top_k,
    "NonZero": _non_zero,
    "Unique": _unique,
    "NonMaxSuppression": _non_max_suppression,
    "Range": _range,
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"), _bernoulli),
    **dict.fromkeys(("RandomNormal", "RandomUniform"), _bernoulli),
}
