"""Operators that reduce, normalize or accumulate along dimensions, and matrix products of two activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressor.models.onnx_import.host import axes_of
from compressor.models.onnx_import.imported_module import Function, OperatorNode
from compressor.models.onnx_import.values import Value, as_tensor, as_tensors, scalar

AXES_ARE_INPUTS = {"ReduceSum": 13}  # of the others from opset 18


def _reduce(function: Callable[..., Tensor]) -> Function:
    def _run(node: OperatorNode, x: Tensor, axes: Value = None) -> Tensor:
        places = axes_of(node.node, axes, since=AXES_ARE_INPUTS.get(node.node.op, 18))
        if not places and node.node.get("noop_with_empty_axes", 0):
            return x
        keep = bool(node.node.get("keepdims", 1))
        return function(x, tuple(places or range(x.ndim)), keep)

    return _run


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _extreme(function: Callable[..., Tensor], of_none: float) -> Function:
    """Maximum or minimum. `of_none`: that of no entries, such as the boxes of an image without objects."""

    def _entries(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        if x.numel() == 0 and x.is_floating_point():
            return torch.full_like(x.sum(axes, keepdim=keep), of_none)
        return function(x, axes, keepdim=keep)

    return _reduce(_entries)


def _l2(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sqrt((x * x).sum(axes, keepdim=keep))


def _arg(function: Callable[[Tensor, int, bool], Tensor]) -> Function:
    def _run(node: OperatorNode, x: Tensor) -> Tensor:
        axis, keep = node.node.get("axis", 0), bool(node.node.get("keepdims", 1))
        if node.node.get("select_last_index", 0):
            return torch.add(torch.neg(function(x.flip(axis), axis, keep)), x.shape[axis] - 1)
        return function(x, axis, keep)

    return _run


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Function:
    def _run(node: OperatorNode, x: Tensor) -> Tensor:
        if node.node.opset >= 13:
            return function(x, node.node.get("axis", -1))
        axis = node.node.get("axis", 1) % x.ndim  # before opset 13: over all dimensions from this one on
        if axis == x.ndim - 1:
            return function(x, -1)
        return function(x.flatten(axis), -1).reshape(x.shape)

    return _run


def _hardmax(node: OperatorNode, x: Tensor) -> Tensor:
    axis = node.node.get("axis", -1 if node.node.opset >= 13 else 1)
    return torch.zeros_like(x).scatter(axis, torch.argmax(x, axis, keepdim=True), 1.0)


def _lp_normalization(node: OperatorNode, x: Tensor) -> Tensor:
    return functional.normalize(x, float(node.node.get("p", 2)), node.node.get("axis", -1), eps=0.0)


def _cumsum(node: OperatorNode, x: Tensor, axis: Value) -> Tensor:
    at = int(scalar(axis))
    x = x.flip(at) if node.node.get("reverse") else x
    total = torch.cumsum(x, at) - (x if node.node.get("exclusive") else 0)
    return total.flip(at) if node.node.get("reverse") else total


def _matmul(_: OperatorNode, a: Value, b: Value) -> Tensor:
    return torch.matmul(*as_tensors(a, b))


def _gemm(node: OperatorNode, a: Value, b: Value, c: Value = None) -> Tensor:
    left, right = as_tensors(a, b)
    left = left.t() if node.node.get("transA") else left
    right = right.t() if node.node.get("transB") else right
    product = torch.matmul(left, right)
    alpha, beta = node.node.get("alpha", 1.0), node.node.get("beta", 1.0)
    product = product if alpha == 1.0 else product * alpha
    if c is None:
        return product
    added = as_tensor(c, product)
    return product + (added if beta == 1.0 else added * beta)


def _einsum(node: OperatorNode, *values: Value) -> Tensor:
    return torch.einsum(node.node.get("equation"), *as_tensors(*values))


def _layer_norm(node: OperatorNode, x: Tensor, scale: Value, shift: Value = None) -> Any:
    """A LayerNorm whose scale is no constant, or whose statistics are outputs."""
    axes = tuple(range(node.node.get("axis", -1) % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    rest = x - mean
    inverse = torch.rsqrt((rest * rest).mean(axes, keepdim=True) + node.node.get("epsilon", 1e-5))
    out = rest * inverse * as_tensor(scale, x)
    return (out if shift is None else out + as_tensor(shift, x)), mean, inverse


OPERATORS: dict[str, Function] = {
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMax": _extreme(torch.amax, -torch.inf),
    "ReduceMin": _extreme(torch.amin, torch.inf),
    "ReduceProd": _reduce(_product),
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduce(_l2),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Softmax": _softmax(lambda x, axis: functional.softmax(x, axis)),
    "LogSoftmax": _softmax(lambda x, axis: functional.log_softmax(x, axis)),
    "Hardmax": _hardmax,
    "LpNormalization": _lp_normalization,
    "CumSum": _cumsum,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "LayerNormalization": _layer_norm,
}
