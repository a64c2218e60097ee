"""Normalizations written out in primitive operators, which are built as the layers that they are.

m = mean(x), d = x - m, v = mean(d^2), out = d / sqrt(v + eps) * scale + shift              LayerNorm
reshape to (B, G, ...), InstanceNormalization with ones and zeros, reshape back, * scale + shift       GroupNorm
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.models.onnx_import.host import axes_of
from compressor.models.onnx_import.links import Links
from compressor.models.onnx_import.values import HostArray

Constant = Callable[[str], HostArray | None]
"""name of a value -> the array, if the value is a constant"""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Nodes that are one normalization. `scale` and `shift`: a node, and which of its inputs is the constant."""

    kind: str  # LayerNorm or GroupNorm
    nodes: tuple[int, ...]
    input: str
    output: str
    epsilon: float
    scale: tuple[int, int] | None
    shift: tuple[int, int] | None
    groups: int = 0


def find_fusion(index: int, links: Links, constant: Constant, rank: int) -> Fusion | None:
    """Find the normalization that begins at a node.

    Args:
        index: The node.
        links: The graph.
        constant: Name -> the constant, even of a node that comes later in the file.
        rank: Number of dimensions of the node's input.

    Returns:
        The fusion, or None.
    """
    node = links.nodes[index]
    if node.domain or node.op not in ("ReduceMean", "Reshape"):
        return None
    find = _layer_norm if node.op == "ReduceMean" else _group_norm
    return find(index, links, constant, rank)


def _layer_norm(index: int, links: Links, constant: Constant, rank: int) -> Fusion | None:
    first = links.nodes[index]
    if not _over_last(first, constant, rank):
        return None
    x, mean = first.inputs[0], first.outputs[0]
    subtractions = [at for at in links.readers.get(mean, ()) if links.nodes[at].op == "Sub"]
    if len(subtractions) != len(links.readers.get(mean, ())) or not subtractions or mean in links.outputs:
        return None
    if any(links.nodes[at].inputs != (x, mean) for at in subtractions):
        return None
    rests = {links.nodes[at].outputs[0] for at in subtractions}
    readers = sorted({at for rest in rests for at in links.readers.get(rest, ())})
    if len(readers) != 2 or rests & links.outputs:
        return None
    by_op = {links.nodes[at].op: at for at in readers}
    square = by_op.get("Pow", by_op.get("Mul"))
    divide = by_op.get("Div")
    if square is None or divide is None or not _squares(links.nodes[square], rests, constant):
        return None
    variance = links.only_reader(links.nodes[square].outputs[0], "ReduceMean")
    if variance is None or not _over_last(links.nodes[variance], constant, rank):
        return None
    add = links.only_reader(links.nodes[variance].outputs[0], "Add")
    if add is None:
        return None
    epsilon = constant(links.other_input(add, links.nodes[variance].outputs[0]) or "")
    root = links.only_reader(links.nodes[add].outputs[0], "Sqrt")
    if root is None or epsilon is None or epsilon.size != 1:
        return None
    if links.nodes[divide].inputs[0] not in rests or links.nodes[divide].inputs[1] != links.nodes[root].outputs[0]:
        return None
    if links.only_reader(links.nodes[root].outputs[0], "Div") is None:
        return None
    parts = (index, *subtractions, square, variance, add, root, divide)
    return _with_affine("LayerNorm", parts, x, float(epsilon.reshape(-1)[0]), links, constant, rank, 1)


def _over_last(node: Any, constant: Constant, rank: int) -> bool:
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = axes_of(node, given, since=18)
    return axes is not None and [axis % rank for axis in axes] == [rank - 1] and bool(node.get("keepdims", 1))


def _squares(node: Any, rests: set[str], constant: Constant) -> bool:
    if node.op == "Mul":
        return set(node.inputs) <= rests
    power = constant(node.inputs[1])
    return node.inputs[0] in rests and power is not None and power.size == 1 and float(power.reshape(-1)[0]) == 2.0


def _group_norm(index: int, links: Links, constant: Constant, rank: int) -> Fusion | None:
    split = links.nodes[index]
    norm = links.only_reader(split.outputs[0], "InstanceNormalization")
    if norm is None or rank < 3 or len(links.nodes[norm].inputs) != 3:
        return None
    node = links.nodes[norm]
    ones, zeros = constant(node.inputs[1]), constant(node.inputs[2])
    if ones is None or zeros is None or (ones != 1).any() or (zeros != 0).any():
        return None
    back = links.only_reader(node.outputs[0], "Reshape")
    sizes = constant(split.inputs[1])
    if back is None or sizes is None or sizes.size != 3 or int(sizes[1]) != ones.size or int(sizes[2]) != -1:
        return None
    parts, epsilon = (index, norm, back), node.get("epsilon", 1e-5)
    return _with_affine("GroupNorm", parts, split.inputs[0], epsilon, links, constant, rank, rank - 1, ones.size)


def _with_affine(
    kind: str,
    parts: tuple[int, ...],
    x: str,
    epsilon: float,
    links: Links,
    constant: Constant,
    rank: int,
    trailing: int,
    groups: int = 0,
) -> Fusion:
    """Add the scale and shift that follow, which are vectors over the `trailing`-th dimension from the right."""
    scale = shift = None
    output = links.nodes[parts[-1]].outputs[0]
    for op in ("Mul", "Add"):
        at = links.only_reader(output, op)
        name = None if at is None else links.other_input(at, output)
        vector = constant(name or "")
        if at is None or vector is None or not _is_vector(vector, trailing):
            if op == "Mul":
                break  # a shift alone stays an addition
            continue
        place = at, links.nodes[at].inputs.index(name or "")
        scale, shift = (place, shift) if op == "Mul" else (scale, place)
        parts, output = (*parts, at), links.nodes[at].outputs[0]
    return Fusion(kind, parts, x, output, epsilon, scale, shift, groups)


def _is_vector(array: HostArray, trailing: int) -> bool:
    """(C,) over the last dimension, or (C, 1, ..., 1) over an earlier one."""
    if array.dtype.kind != "f" or array.size < 2 or array.ndim < trailing:
        return False
    return array.shape[array.ndim - trailing] == array.size and bool(np.prod(array.shape) == array.size)
