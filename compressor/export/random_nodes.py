"""An ONNX file whose random numbers are the centres of their distributions (see execution/central_draws.py)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from compressor.export.tolerance import Array

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
DRAWS = (*RANDOM, "Bernoulli", "Dropout", "Multinomial")


class CannotCompare(Exception):
    """A node draws random numbers that have no centre; the message names it."""


@contextmanager
def with_central_draws(path: Path) -> Iterator[Path | None]:
    """A copy of the file beside it without random draws; None where there are none in it.

    Raises CannotCompare.
    """
    if not may_draw(path):
        yield None
        return
    model = ir.load(path)
    drawing = [node for node in model.graph.all_nodes() if node.op_type in DRAWS and _draws(node)]
    if not drawing:
        yield None
        return
    for node in drawing:
        _replace(node)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        copy = Path(folder) / path.name
        data = f"{path.name}.data" if path.with_name(f"{path.name}.data").exists() else None
        ir.save(model, copy, external_data=data)
        yield copy


def may_draw(path: Path) -> bool:
    """Whether a file has nodes that draw random numbers, in training mode at least."""
    return any(node.op_type in DRAWS for node in onnx.load(str(path), load_external_data=False).graph.node)


def _draws(node: ir.Node) -> bool:
    """A Dropout draws in training mode only."""
    if node.op_type != "Dropout":
        return True
    training = node.inputs[2] if len(node.inputs) > 2 else None
    constant = None if training is None else ir.convenience.get_const_tensor(training)
    return constant is not None and bool(constant.numpy())


def _replace(node: ir.Node) -> None:
    """Put what gives the centre in the place of a node."""
    old = node.outputs[0]
    nodes: list[ir.Node] = []
    if node.op_type == "Dropout":
        nodes = [ir.node("Identity", [node.inputs[0]])]
    elif node.op_type == "Bernoulli":
        half = ir.node("Constant", [], {"value": ir.tensor(np.array(0.5, dtype=np.float32))})
        above = ir.node("Greater", [node.inputs[0], half.outputs[0]])
        kind = old.dtype or ir.DataType.FLOAT
        nodes = [half, above, ir.node("Cast", [above.outputs[0]], {"to": int(kind)})]
    elif node.op_type in RANDOM:
        value = _centre(node).astype((old.dtype or ir.DataType.FLOAT).numpy())
        if node.op_type.endswith("Like"):
            shape = ir.node("Shape", [node.inputs[0]])
            nodes = [shape, ir.node("ConstantOfShape", [shape.outputs[0]], {"value": ir.tensor(value.reshape(1))})]
        else:
            full = np.broadcast_to(value, node.attributes["shape"].as_ints())
            nodes = [ir.node("Constant", [], {"value": ir.tensor(np.ascontiguousarray(full))})]
    else:
        raise CannotCompare(f"{node.op_type} ({node.name}) draws random numbers, which cannot be compared")
    graph = node.graph
    assert graph is not None, "the node was found in a graph"
    graph.insert_before(node, nodes)
    new = nodes[-1].outputs[0]
    new.name, old.name = old.name, f"{old.name}_drawn"
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _number(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def _centre(node: ir.Node) -> Array:
    if "Normal" in node.op_type:
        return np.array(_number(node, "mean", 0.0))
    return np.array((_number(node, "low", 0.0) + _number(node, "high", 1.0)) / 2)
