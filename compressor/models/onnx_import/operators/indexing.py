"""Operators that join tensors, take parts of them, or write into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressor.models.onnx_import.host import slice_bounds
from compressor.models.onnx_import.imported_module import Function, OperatorNode
from compressor.models.onnx_import.node import unsupported
from compressor.models.onnx_import.padding import PADS_ARE_INPUTS, as_padding, pad_axes
from compressor.models.onnx_import.values import Value, as_tensor, as_tensors, ints, is_host, scalar


def _slice(node: OperatorNode, x: Tensor, *bounds: Value) -> Tensor:
    starts, ends, axes, steps = slice_bounds(node.node, x.ndim, *bounds)
    if node.begin is not None:
        starts = [node.begin]
    if node.end is not None:
        ends = [node.end]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            x = x[(slice(None),) * axis + (slice(start, min(end, x.shape[axis]), step),)]
        else:
            places = range(x.shape[axis])[slice(start, None if end < -x.shape[axis] else end, step)]
            x = torch.index_select(x, axis, torch.tensor(list(places), device=x.device))
    return x


def _gather(node: OperatorNode, x: Value, indices: Value) -> Tensor:
    like = next(value for value in (x, indices) if isinstance(value, Tensor))
    x, axis = as_tensor(x, like), node.node.get("axis", 0)
    if is_host(indices) and indices.ndim == 0:
        return torch.select(x, axis, int(indices))
    at = as_tensor(indices, like).long()
    if is_host(indices):
        at = torch.where(at < 0, at + x.shape[axis], at) if (indices < 0).any() else at
    else:
        at = torch.where(at < 0, at + x.shape[axis], at)
    axis %= x.ndim
    if at.ndim == 1:
        return torch.index_select(x, axis, at)
    flat = torch.index_select(x, axis, at.reshape(-1))
    return flat.reshape(*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])


def _gather_elements(node: OperatorNode, x: Value, indices: Value) -> Tensor:
    (x, at), axis = as_tensors(x, indices), node.node.get("axis", 0)
    at = at.long()
    return torch.gather(x, axis, torch.where(at < 0, at + x.shape[axis], at))


def _gather_nd(node: OperatorNode, x: Value, indices: Value) -> Tensor:
    x, at = as_tensors(x, indices)
    at = at.long()
    lead = node.node.get("batch_dims", 0)
    if not lead:
        return x[tuple(at.unbind(-1))]
    samples = [a[tuple(i.unbind(-1))] for a, i in zip(x.flatten(0, lead - 1), at.flatten(0, lead - 1), strict=True)]
    return torch.stack(samples).reshape(*x.shape[:lead], *samples[0].shape)


def _scatter_nd(node: OperatorNode, x: Value, indices: Value, updates: Value) -> Tensor:
    x, source, at = as_tensors(x, updates, indices)
    at = at.long()
    how = node.node.get("reduction", "none")
    if how not in ("none", "add"):
        raise unsupported(node.node, f"its reduction is {how}")
    return x.index_put(tuple(at.unbind(-1)), source.to(x.dtype), accumulate=how == "add")


def _scatter_elements(node: OperatorNode, x: Value, indices: Value, updates: Value) -> Tensor:
    x, source, at = as_tensors(x, updates, indices)
    at = at.long()
    axis, how = node.node.get("axis", 0), node.node.get("reduction", "none")
    at = torch.where(at < 0, at + x.shape[axis], at)
    if how == "none":
        return torch.scatter(x, axis, at, source.to(x.dtype))
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(x, axis, at, source.to(x.dtype), names[how])


def _concat(node: OperatorNode, *parts: Value) -> Tensor:
    return torch.cat(as_tensors(*parts), node.node.get("axis", 0))


def _split(node: OperatorNode, x: Tensor, sizes: Value = None) -> tuple[Tensor, ...]:
    axis, count = node.node.get("axis", 0), len(node.node.outputs)
    written = node.node.get("split") if node.node.opset < 13 else None if sizes is None else ints(sizes)
    if written is None or len(set(written)) == 1:
        return torch.chunk(x, count, axis)  # equal parts stay equal parts
    return torch.split(x, (node.output_sizes and list(node.output_sizes)) or list(written), axis)


def _pad(node: OperatorNode, x: Tensor, pads: Value = None, fill: Value = None, axes: Value = None) -> Tensor:
    amounts = node.padding
    if amounts is None:
        written = node.node.get("pads", ()) if node.node.opset < PADS_ARE_INPUTS else ints(pads)
        amounts = as_padding(written, pad_axes(x.ndim, axes), x.ndim)
    mode = node.node.get("mode", "constant")
    if not amounts:
        return x
    if mode == "constant":
        early = node.node.opset < PADS_ARE_INPUTS
        value = node.node.get("value", 0.0) if early else 0.0 if fill is None else scalar(fill)
        return functional.pad(x, amounts, value=value)
    return functional.pad(x, amounts, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _one_hot(node: OperatorNode, indices: Tensor, depth: Value, values: Value) -> Tensor:
    count, axis = int(scalar(depth)), node.node.get("axis", -1)
    off, on = (values.reshape(-1).tolist()) if values is not None else (0, 1)
    at = torch.remainder(indices.long(), count)
    spread = torch.where(functional.one_hot(at, count).bool(), on, off)
    return torch.movedim(spread, -1, axis)


def _compress(node: OperatorNode, x: Tensor, condition: Value) -> Tensor:
    mask, axis = as_tensor(condition, x).bool(), node.node.get("axis")
    x = x.reshape(-1) if axis is None else x
    at = torch.nonzero(mask).reshape(-1)
    return torch.index_select(x, axis or 0, at)


def _reverse_sequence(node: OperatorNode, x: Tensor, lengths: Value) -> Tensor:
    time, batch = node.node.get("time_axis", 0), node.node.get("batch_axis", 1)
    parts = []
    for sample, length in zip(x.unbind(batch), ints(lengths), strict=True):
        along = time - (batch < time)
        head, tail = sample.narrow(along, 0, length), sample.narrow(along, length, sample.shape[along] - length)
        parts.append(torch.cat([head.flip(along), tail], along))
    return torch.stack(parts, batch)


def _trilu(node: OperatorNode, x: Tensor, k: Value = None) -> Tensor:
    diagonal = 0 if k is None else int(scalar(k))
    return torch.triu(x, diagonal) if node.node.get("upper", 1) else torch.tril(x, diagonal)


def _constant_of_shape(node: OperatorNode, shape: Any) -> Tensor:
    value = node.node.get("value")
    return torch.full(ints(shape), 0.0 if value is None else value.reshape(-1)[0].item(), device=shape.device)


OPERATORS: dict[str, Function] = {
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Scatter": _scatter_elements,
    "Concat": _concat,
    "Split": _split,
    "Pad": _pad,
    "OneHot": _one_hot,
    "Compress": _compress,
    "ReverseSequence": _reverse_sequence,
    "Trilu": _trilu,
    "ConstantOfShape": _constant_of_shape,
}
