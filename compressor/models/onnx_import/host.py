"""Nodes whose inputs are all arrays on the host: sizes that the graph computes, and constants that are left over.

The usual operators of size arithmetic are written out, because they run at every forward pass. Any other operator is
evaluated by ONNX's own reference implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compressor.models.onnx_import.node import Node, float_value, unsupported
from compressor.models.onnx_import.values import HostArray, in_float32, ints

MAX_ENTRIES = 2**26  # of one result; a file of a few bytes could ask for any number

HostFunction = Callable[..., Any]
"""(node, *arrays) -> array"""


def evaluate_on_host(node: Node, values: Sequence[HostArray | None]) -> Any:
    """Evaluate a node on arrays.

    Args:
        node: The node.
        values: Its inputs; None where one is absent.

    Returns:
        An array, or a tuple of arrays where the node has several outputs.

    Raises:
        ModelError: The operator is unknown, or its result would be too large.
    """
    _refuse_large(node, values)
    function = None if node.domain else FUNCTIONS.get(node.op)
    if function is not None:
        return np.asarray(function(node, *values))
    feeds = {name: value for name, value in zip(node.inputs, values, strict=False) if name and value is not None}
    try:
        evaluator: Any = ReferenceEvaluator(_proto(node), opsets={node.domain: node.opset})
        results = evaluator.run(None, feeds)
    except Exception as error:  # whatever an operator's reference implementation raises
        problem = f"it cannot be evaluated ({type(error).__name__}: {str(error)[:160]})"
        raise unsupported(node, problem) from error
    return tuple(results) if len(results) > 1 else results[0]


def _proto(node: Node) -> Any:
    proto = helper.make_node(node.op, list(node.inputs), list(node.outputs), node.name, domain=node.domain)
    for name, value in node.attributes.items():
        proto.attribute.append(
            helper.make_attribute(name, numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value)
        )
    return proto


def _refuse_large(node: Node, values: Sequence[HostArray | None]) -> None:
    """Refuse operators that make a large array of a few numbers."""
    size = 0.0
    given = [value for value in values if value is not None]
    if node.op == "ConstantOfShape" and given:
        size = math.prod(map(float, ints(given[0])))
    elif node.op == "Expand" and len(given) > 1:
        pairs = zip_longest(reversed(given[0].shape), reversed(ints(given[1])), fillvalue=1)
        size = math.prod(float(max(pair)) for pair in pairs)
    elif node.op == "Tile" and len(given) > 1:
        size = math.prod(map(float, ints(given[1]))) * given[0].size
    elif node.op == "Range" and len(given) == 3:
        start, limit, delta = map(float_value, given)
        size = (limit - start) / delta if delta else math.inf
    elif node.op == "OneHot" and len(given) > 1:
        size = float(given[0].size) * float_value(given[1])
    elif node.op in ("Pad", "Resize", "Upsample", "EyeLike", "RandomNormal", "RandomUniform"):
        size = math.prod(map(float, node.get("shape", ()))) if node.get("shape") else 0.0
        size += sum(abs(float(entry)) for entry in given[1].reshape(-1)) if len(given) > 1 else 0.0
    if not size <= MAX_ENTRIES:
        raise unsupported(node, f"it makes {size:.0f} entries of constants")


def _slice(node: Node, x: HostArray, *bounds: HostArray | None) -> HostArray:
    starts, ends, axes, steps = slice_bounds(node, x.ndim, *bounds)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, last, step)
    return x[tuple(index)]


def slice_bounds(node: Node, rank: int, *bounds: Any) -> tuple[list[int], list[int], list[int], list[int]]:
    """Read the arguments of a Slice, which are attributes before opset 10.

    Args:
        node: The node.
        rank: Number of dimensions of what is sliced.
        bounds: Starts, ends, axes and steps, as far as there are.

    Returns:
        Starts, ends, axes from 0, steps.
    """
    if node.opset < 10:
        bounds = tuple(None if (value := node.get(name)) is None else np.array(value) for name in _SLICE)
    starts, ends, axes, steps = (None if value is None else ints(value) for value in (*bounds, None, None, None)[:4])
    assert starts is not None and ends is not None, "a Slice has starts and ends"
    axes = list(range(len(starts))) if axes is None else [axis % rank for axis in axes]
    return starts, ends, axes, steps or [1] * len(starts)


_SLICE = ("starts", "ends", "axes", "steps")


def axes_of(node: Node, given: Any, *, since: int) -> list[int] | None:
    """Read the axes of an operator that has them as an attribute before an opset, and as an input since then.

    Args:
        node: The node.
        given: The input.
        since: The opset in which they became an input.

    Returns:
        The axes as they are written; None where there are none.
    """
    if node.opset < since:
        axes = node.get("axes")
        return None if axes is None else list(axes)
    return None if given is None else ints(given)


def _unsqueeze(node: Node, x: HostArray, axes: HostArray | None = None) -> HostArray:
    places = axes_of(node, axes, since=13) or []
    return np.expand_dims(x, tuple(places))


def _squeeze(node: Node, x: HostArray, axes: HostArray | None = None) -> HostArray:
    places = axes_of(node, axes, since=13)
    return np.squeeze(x, None if places is None else tuple(places))


def _cast(node: Node, x: HostArray, *_: HostArray | None) -> HostArray:
    dtype = helper.tensor_dtype_to_np_dtype(node.get("to"))
    if dtype.kind in "iu" and x.dtype.kind == "f":
        x = np.trunc(x)
    return x.astype(np.float32 if dtype.itemsize == 2 and dtype.kind not in "iu" else dtype)


def _divide(_: Node, a: HostArray, b: HostArray) -> HostArray:
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    quotient = np.abs(a) // np.abs(b)  # ONNX rounds towards zero
    return np.asarray(quotient * np.sign(a) * np.sign(b), dtype=a.dtype)


def _reshape(node: Node, x: HostArray, shape: HostArray) -> HostArray:
    sizes = [x.shape[at] if size == 0 and not node.get("allowzero") else size for at, size in enumerate(ints(shape))]
    return x.reshape(sizes)


def _constant_of_shape(node: Node, shape: HostArray) -> HostArray:
    value = node.get("value", np.zeros(1, np.float32))
    return np.full(ints(shape), value.reshape(-1)[0], dtype=value.dtype)


def _range(_: Node, start: HostArray, limit: HostArray, delta: HostArray) -> HostArray:
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _reduce_prod(node: Node, x: HostArray, axes: HostArray | None = None) -> HostArray:
    places = axes_of(node, axes, since=18)
    keep = bool(node.get("keepdims", 1))
    return np.asarray(np.prod(x, axis=None if places is None else tuple(places), keepdims=keep, dtype=x.dtype))


def _constant(node: Node) -> HostArray:
    names = ("value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings")
    name = next((name for name in names if name in node.attributes), None)
    if name is None:
        raise unsupported(node, "it has no value that is supported")
    dtype = np.float32 if "float" in name else np.int64 if "int" in name else None
    return in_float32(np.asarray(node.get(name), dtype=dtype))


FUNCTIONS: dict[str, HostFunction] = {
    "Constant": _constant,
    "Identity": lambda _, x: x,
    "Gather": lambda node, x, at: np.take(x, at.astype(np.int64), axis=node.get("axis", 0)),
    "Concat": lambda node, *parts: np.concatenate(parts, axis=node.get("axis", 0)),
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Cast": _cast,
    "Add": lambda _, a, b: np.add(a, b),
    "Sub": lambda _, a, b: np.subtract(a, b),
    "Mul": lambda _, a, b: np.multiply(a, b),
    "Div": _divide,
    "Neg": lambda _, x: np.negative(x),
    "Floor": lambda _, x: np.floor(x),
    "Ceil": lambda _, x: np.ceil(x),
    "Sqrt": lambda _, x: np.sqrt(x),
    "Equal": lambda _, a, b: np.equal(a, b),
    "Greater": lambda _, a, b: np.greater(a, b),
    "Less": lambda _, a, b: np.less(a, b),
    "Not": lambda _, x: np.logical_not(x),
    "And": lambda _, a, b: np.logical_and(a, b),
    "Or": lambda _, a, b: np.logical_or(a, b),
    "Where": lambda _, condition, a, b: np.where(condition, a, b),
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ReduceProd": _reduce_prod,
    "Expand": lambda _, x, shape: x * np.ones(ints(shape), dtype=x.dtype),
}
