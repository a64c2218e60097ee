"""Check the weights of an ONNX file against an N:M pattern.

Each weight is taken as its operator reads it: after transposes and casts, and relative to its zero point if it is
quantized. The file is not run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from compressor.core import NMPattern
from compressor.sparsity.nm_masks import satisfies_pattern
from compressor.sparsity.runtimes import RuntimeSupport, ineligible_reason

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Initializer:
    """A constant weight as its operator reads it, (K, C, *)."""

    name: str
    operator: str
    shape: tuple[int, ...]
    zeros: float  # share of all values
    holds: bool  # whether it keeps the pattern
    reason: str | None  # why a runtime cannot use the pattern in this shape


def inspect_initializers(path: Path, support: RuntimeSupport, pattern: NMPattern) -> tuple[Initializer, ...]:
    """List every constant that is the weight of a convolution or matrix product, in the order of the graph.

    Args:
        path: An ONNX file that was checked. External data is read from its folder.
        support: What the runtime can use.
        pattern: N and M.

    Returns:
        The weights; one that several operators read appears once.
    """
    initializers = []
    for name, (operator, weight) in weight_constants(path).items():
        if operator != _TRANSPOSED:
            tensor = torch.from_numpy(np.ascontiguousarray(weight != 0))
            shape = tuple(weight.shape)
            zeros = 1 - float(tensor.double().mean()) if weight.size else 0.0
            reason = ineligible_reason(shape, support, pattern)
            holds = satisfies_pattern(tensor, pattern)
            initializers.append(Initializer(name, operator, shape, zeros, holds, reason))
    return tuple(initializers)


def weight_constants(path: Path) -> dict[str, tuple[str, Array]]:
    """Return name -> (operator, weight), the weight (K, C, *) or of a transposed convolution (C, K, *)."""
    constants: dict[str, tuple[str, Array]] = {}
    for node, name, weight in _weights(onnx.load(str(path)).graph, {}):
        constants.setdefault(name, (node.op_type, weight))
    return constants


def find_nm_weights(
    path: Path, support: RuntimeSupport, pattern: NMPattern, shapes: Iterable[Sequence[int]]
) -> tuple[int, list[tuple[int, ...]]]:
    """Look for masked weights among the constants of a file that keep an N:M pattern.

    Exporters rename the weights that they transpose, so weights are matched by shape and content, not by name.

    Args:
        path: An ONNX file that was checked.
        support: What the runtime can use.
        pattern: N and M.
        shapes: Shapes of the masked weights, (K, C, *) each.

    Returns:
        The number of constants that keep the pattern, and the sorted shapes of masked weights that none matches.
    """
    matching = Counter(weight.shape for weight in inspect_initializers(path, support, pattern) if weight.holds)
    missing = Counter(map(tuple, shapes)) - matching
    return sum(matching.values()), sorted(missing.elements())


def find_masked_weights(path: Path, weights: Iterable[tuple[Sequence[int], int]]) -> tuple[int, list[tuple[int, ...]]]:
    """Look for masked weights of any pattern among the constants of a file, matched as in `find_nm_weights`.

    Args:
        path: An ONNX file that was checked.
        weights: Shape of each weight, and the number of its entries that may be nonzero.

    Returns:
        The number of weights that a constant matches, and the sorted shapes of the others.
    """
    nonzeros: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for _, constant in weight_constants(path).values():
        nonzeros[constant.shape].append(int((constant != 0).sum()))
    matched, missing = 0, []
    for shape, limit in sorted((tuple(shape), limit) for shape, limit in weights):
        fitting = [count for count in nonzeros[shape] if count <= limit]
        if fitting:
            matched += 1
            nonzeros[shape].remove(max(fitting))
        else:
            missing.append(shape)
    return matched, missing


# operator -> (index of the weight, index of its zero point) among the inputs
_TRANSPOSED = "ConvTranspose"
_CONVOLUTIONS = {"Conv": (1, None), _TRANSPOSED: (1, None), "ConvInteger": (1, 3), "QLinearConv": (3, 5)}
_PRODUCTS = {"MatMul": (1, None), "Gemm": (1, None), "MatMulInteger": (1, 3), "QLinearMatMul": (3, 5)}
_THROUGH = {"Identity", "Cast", "Transpose", "DequantizeLinear", "QuantizeLinear"}


def _weights(graph: GraphProto, outer: Mapping[str, Array]) -> Iterator[tuple[NodeProto, str, Array]]:
    """Yield (operator, name of its constant, weight (K, C, *)), also in subgraphs, which read outer constants."""
    constants = {**outer, **{tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Constant" and (value := _attribute(node, "value")) is not None:
            constants[node.output[0]] = numpy_helper.to_array(value)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _weights(inner, constants)
        index, zero = _CONVOLUTIONS.get(node.op_type) or _PRODUCTS.get(node.op_type) or (None, None)
        if index is None or node.domain not in ("", "ai.onnx", "com.microsoft"):
            continue
        constant = _constant(node.input[index], constants, producers)
        if constant is None:
            continue
        name, weight = constant
        if zero is not None and len(node.input) > zero and node.input[zero] in constants:
            weight = _subtract_zero_point(
                weight, constants[node.input[zero]], axis=0 if node.op_type in _CONVOLUTIONS else -1
            )
        if node.op_type in _PRODUCTS:
            if weight.ndim != 2:
                continue
            weight = weight if _attribute(node, "transB") else weight.T  # read as (C, K) otherwise
        yield node, name, weight


def _constant(
    name: str, constants: Mapping[str, Array], producers: Mapping[str, NodeProto]
) -> tuple[str, Array] | None:
    """Find the constant that `name` is computed from, and its value after transposes and zero points."""
    path: list[NodeProto] = []
    while name not in constants:
        node = producers.get(name)
        if node is None or node.op_type not in _THROUGH or node in path:
            return None
        path.append(node)
        name = node.input[0]
    value = constants[name]
    for node in reversed(path):
        if node.op_type == "Transpose":
            value = np.transpose(value, _attribute(node, "perm"))
        elif node.op_type == "DequantizeLinear" and len(node.input) > 2 and node.input[2] in constants:
            axis = _attribute(node, "axis")
            value = _subtract_zero_point(value, constants[node.input[2]], axis=1 if axis is None else axis)
    return name, value


def _subtract_zero_point(value: Array, zero: Array, axis: int) -> Array:
    """Subtract the zero point of quantized integers, one for all or one for each entry of `axis`."""
    if zero.ndim == 1 and value.ndim:
        zero = zero.reshape([-1 if dim == axis % value.ndim else 1 for dim in range(value.ndim)])
    return value.astype(np.int64) - zero.astype(np.int64)


def _attribute(node: NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), None)
