"""The weights of any ONNX file against the N:M rule: at every kernel place, of M input channels in a row at most N.

What counts is the tensor as its operator reads it: behind transposes and casts, and around the zero point where it is
quantised. Nothing is run; the file's structure is all that is looked at.
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
    holds: bool  # the rule
    reason: str | None  # why a runtime could not use it anyway


def pattern_of_initializers(path: Path, support: RuntimeSupport, pattern: NMPattern) -> tuple[Initializer, ...]:
    """Every constant that a convolution or matrix product takes for its weight, in the graph's order.

    `path`: a file that was examined; external data is read from its folder. A weight that several operators read is
    listed once.
    """
    found = []
    for name, (operator, weight) in constants(path).items():
        if operator != _TRANSPOSED:
            tensor = torch.from_numpy(np.ascontiguousarray(weight != 0))
            shape = tuple(weight.shape)
            zeros = 1 - float(tensor.double().mean()) if weight.size else 0.0
            reason = ineligible_reason(shape, support, pattern)
            found.append(Initializer(name, operator, shape, zeros, satisfies_pattern(tensor, pattern), reason))
    return tuple(found)


def constants(path: Path) -> dict[str, tuple[str, Array]]:
    """Name -> its operator, and the weight as that reads it: (K, C, *), of a transposed convolution (C, K, *)."""
    found: dict[str, tuple[str, Array]] = {}
    for node, name, weight in _weights(onnx.load(str(path)).graph, {}):
        found.setdefault(name, (node.op_type, weight))
    return found


def find_nm_weights(
    path: Path, support: RuntimeSupport, pattern: NMPattern, shapes: Iterable[Sequence[int]]
) -> tuple[int, list[tuple[int, ...]]]:
    """Look for masked weights among the constants of a file that keep an N:M pattern.

    Exporters rename the weights that they transpose, so weights are matched by shape and content, not by name.

    Args:
        path: an ONNX file that was checked.
        support: what the runtime can use.
        pattern: the N:M pattern.
        shapes: shapes of the masked weights, (K, C, *) each.

    Returns:
        How many constants keep the pattern, and the shapes of the masked weights that none of them matches, sorted.
    """
    held = Counter(weight.shape for weight in pattern_of_initializers(path, support, pattern) if weight.holds)
    missing = Counter(map(tuple, shapes)) - held
    return sum(held.values()), sorted(missing.elements())


def find_masked_weights(path: Path, weights: Iterable[tuple[Sequence[int], int]]) -> tuple[int, list[tuple[int, ...]]]:
    """Look for weights with so many zeros among the constants of a file, matched as in `find_nm_weights`.

    Args:
        path: an ONNX file that was checked.
        weights: shape of each weight, and how many of its entries may be other than zero.

    Returns:
        How many weights a constant matches, and the shapes of those that none matches, sorted.
    """
    nonzeros: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for _, constant in constants(path).values():
        nonzeros[constant.shape].append(int((constant != 0).sum()))
    held, missing = 0, []
    for shape, limit in sorted((tuple(shape), limit) for shape, limit in weights):
        fitting = [count for count in nonzeros[shape] if count <= limit]
        if fitting:
            held += 1
            nonzeros[shape].remove(max(fitting))
        else:
            missing.append(shape)
    return held, missing


# operator -> (place of the weight, place of its zero point) among the inputs
_TRANSPOSED = "ConvTranspose"
_CONVOLUTIONS = {"Conv": (1, None), _TRANSPOSED: (1, None), "ConvInteger": (1, 3), "QLinearConv": (3, 5)}
_PRODUCTS = {"MatMul": (1, None), "Gemm": (1, None), "MatMulInteger": (1, 3), "QLinearMatMul": (3, 5)}
_THROUGH = {"Identity", "Cast", "Transpose", "DequantizeLinear", "QuantizeLinear"}


def _weights(graph: GraphProto, outer: Mapping[str, Array]) -> Iterator[tuple[NodeProto, str, Array]]:
    """(operator, name of its constant, weight as (K, C, *)), in subgraphs too, which see the constants around them."""
    constants = {**outer, **{each.name: numpy_helper.to_array(each) for each in graph.initializer}}
    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Constant" and (value := _attribute(node, "value")) is not None:
            constants[node.output[0]] = numpy_helper.to_array(value)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _weights(inner, constants)
        place, zero = _CONVOLUTIONS.get(node.op_type) or _PRODUCTS.get(node.op_type) or (None, None)
        if place is None or node.domain not in ("", "ai.onnx", "com.microsoft"):
            continue
        found = _constant(node.input[place], constants, made)
        if found is None:
            continue
        name, weight = found
        if zero is not None and len(node.input) > zero and node.input[zero] in constants:
            weight = _centred(weight, constants[node.input[zero]], axis=0 if node.op_type in _CONVOLUTIONS else -1)
        if node.op_type in _PRODUCTS:
            if weight.ndim != 2:
                continue
            weight = weight if _attribute(node, "transB") else weight.T  # read as (C, K) otherwise
        yield node, name, weight


def _constant(name: str, constants: Mapping[str, Array], made: Mapping[str, NodeProto]) -> tuple[str, Array] | None:
    """The constant behind `name`, as it arrives there."""
    path: list[NodeProto] = []
    while name not in constants:
        node = made.get(name)
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
            value = _centred(value, constants[node.input[2]], axis=1 if axis is None else axis)
    return name, value


def _centred(value: Array, zero: Array, axis: int) -> Array:
    """The integers around their zero point, one for all or one for each entry of `axis`."""
    if zero.ndim == 1 and value.ndim:
        zero = zero.reshape([-1 if each == axis % value.ndim else 1 for each in range(value.ndim)])
    return value.astype(np.int64) - zero.astype(np.int64)


def _attribute(node: NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), None)
