"""Operators that work entry by entry, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressor.models.onnx_import.imported_module import Function, OperatorNode
from compressor.models.onnx_import.node import unsupported
from compressor.models.onnx_import.values import Value, as_tensor, as_tensors, is_host, module_dtype, scalar


def as_operands(*values: Value) -> list[Any]:
    """Make host arrays numbers, or tensors where they have several entries, beside at least one tensor."""
    like = next(value for value in values if isinstance(value, Tensor))
    return [
        scalar(value) if is_host(value) and value.size == 1 and value.ndim <= like.ndim else as_tensor(value, like)
        for value in values
    ]


def unary(function: Callable[[Tensor], Tensor]) -> Function:
    """Make an operator of a function of one tensor."""
    return lambda _, x: function(x)


def binary(function: Callable[[Any, Any], Tensor]) -> Function:
    """Make an operator of a function of two operands, one of which may be a number."""
    return lambda _, a, b: function(*as_operands(a, b))


def _variadic(function: Callable[[Any, Any], Tensor]) -> Function:
    def _run(_: OperatorNode, *values: Value) -> Tensor:
        return reduce(function, as_tensors(*values))

    return _run


def _divide(a: Any, b: Any) -> Tensor:
    integers = all(
        not (value.is_floating_point() if isinstance(value, Tensor) else isinstance(value, float)) for value in (a, b)
    )
    return torch.div(a, b, rounding_mode="trunc" if integers else None)


def _mean(_: OperatorNode, *values: Value) -> Tensor:
    return reduce(torch.add, as_tensors(*values)) / len(values)


def _cast(node: OperatorNode, x: Tensor, *_: Value) -> Tensor:
    dtype = module_dtype(node.node.get("to"))
    if dtype is None:
        raise unsupported(node.node, f"it casts to the element type {node.node.get('to')}")
    return x.to(dtype)


def _cast_like(_: OperatorNode, x: Value, like: Tensor) -> Tensor:
    return as_tensor(x, like).to(like.dtype)


def _clip(node: OperatorNode, x: Tensor, low: Value = None, high: Value = None) -> Tensor:
    if node.node.opset < 11:
        return torch.clamp(x, node.node.get("min"), node.node.get("max"))
    bounds: list[Any] = [scalar(bound) if is_host(bound) else bound for bound in (low, high)]
    if bounds == [None, None]:
        return x
    if bounds == [0.0, 6.0]:
        return functional.relu6(x)
    return torch.clamp(x, min=bounds[0], max=bounds[1])


def _power(a: Any, b: Any) -> Tensor:
    return torch.pow(a, b)


def _gelu(node: OperatorNode, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.node.get("approximate", "none"))


def _leaky(node: OperatorNode, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.node.get("alpha", 0.01))


def _elu(node: OperatorNode, x: Tensor) -> Tensor:
    return functional.elu(x, node.node.get("alpha", 1.0))


def _celu(node: OperatorNode, x: Tensor) -> Tensor:
    return functional.celu(x, node.node.get("alpha", 1.0))


def _selu(node: OperatorNode, x: Tensor) -> Tensor:
    alpha, gamma = node.node.get("alpha", 1.6732632423543772), node.node.get("gamma", 1.0507009873554805)
    return torch.mul(functional.elu(x, alpha), gamma)


def _hard_sigmoid(node: OperatorNode, x: Tensor) -> Tensor:
    alpha, beta = node.node.get("alpha", 0.2), node.node.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-4) and beta == 0.5:
        return functional.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


def _thresholded_relu(node: OperatorNode, x: Tensor) -> Tensor:
    return functional.threshold(x, node.node.get("alpha", 1.0), 0.0)


def _prelu(_: OperatorNode, x: Tensor, slope: Value) -> Tensor:
    return torch.where(x >= 0, x, x * as_tensor(slope, x))


def _swish(node: OperatorNode, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.node.get("alpha", 1.0) * x)


def _shrink(node: OperatorNode, x: Tensor) -> Tensor:
    bias, limit = node.node.get("bias", 0.0), node.node.get("lambd", 0.5)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


def _where(_: OperatorNode, condition: Value, a: Value, b: Value) -> Tensor:
    a, b, condition = as_tensors(a, b, condition)
    return torch.where(condition, a, b)


def _modulo(node: OperatorNode, a: Value, b: Value) -> Tensor:
    return (torch.fmod if node.node.get("fmod") else torch.remainder)(*as_operands(a, b))


def _isinf(node: OperatorNode, x: Tensor) -> Tensor:
    above = torch.isposinf(x) if node.node.get("detect_positive", 1) else torch.zeros_like(x, dtype=torch.bool)
    below = torch.isneginf(x) if node.node.get("detect_negative", 1) else torch.zeros_like(x, dtype=torch.bool)
    return above | below


OPERATORS: dict[str, Function] = {
    **{name: unary(getattr(torch, name.lower())) for name in ("Abs", "Neg", "Floor", "Ceil", "Round", "Sqrt", "Exp")},
    **{name: unary(getattr(torch, name.lower())) for name in ("Log", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan")},
    **{name: unary(getattr(torch, name.lower())) for name in ("Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Tanh")},
    **{name: unary(getattr(torch, name.lower())) for name in ("Erf", "Reciprocal", "Sigmoid", "Sign", "Relu")},
    "Not": unary(torch.logical_not),
    "IsNaN": unary(torch.isnan),
    "BitwiseNot": unary(torch.bitwise_not),
    "Softplus": unary(functional.softplus),
    "Softsign": unary(functional.softsign),
    "HardSwish": unary(functional.hardswish),
    "Mish": unary(functional.mish),
    "Identity": lambda _, x: x,
    "Dropout": lambda _, x, *__: x,
    "Add": binary(torch.add),
    "Sub": binary(torch.sub),
    "Mul": binary(torch.mul),
    "Div": binary(_divide),
    "Pow": binary(_power),
    "Equal": binary(lambda a, b: a == b),
    "Greater": binary(lambda a, b: a > b),
    "GreaterOrEqual": binary(lambda a, b: a >= b),
    "Less": binary(lambda a, b: a < b),
    "LessOrEqual": binary(lambda a, b: a <= b),
    "And": binary(lambda a, b: a & b),
    "Or": binary(lambda a, b: a | b),
    "Xor": binary(lambda a, b: a ^ b),
    "BitwiseAnd": binary(lambda a, b: a & b),
    "BitwiseOr": binary(lambda a, b: a | b),
    "BitwiseXor": binary(lambda a, b: a ^ b),
    "Sum": _variadic(torch.add),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Mean": _mean,
    "Mod": _modulo,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Gelu": _gelu,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "HardSigmoid": _hard_sigmoid,
    "ThresholdedRelu": _thresholded_relu,
    "PRelu": _prelu,
    "Swish": _swish,
    "Shrink": _shrink,
    "Where": _where,
    "IsInf": _isinf,
}
