"""The outputs of an ONNX file's layers before its first discrete operator, such as TopK or NonMaxSuppression.

A discrete operator may turn a difference in the last digit into a different result, so what follows it can be compared
only if the scores are far enough apart. Layers are identified by their weights, whatever names an exporter gives them.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from compressor.execution.copies import copy_module
from compressor.execution.run_copy import run_seeded
from compressor.export.tolerance import Array
from compressor.layers import has_filters, observe_outputs
from compressor.tensors import tree_leaves

DISCRETE = {"TopK", "NonMaxSuppression", "NonZero", "ArgMax", "ArgMin", "Unique", "Compress"}
COMPARED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # their output is that of the PyTorch layer with the same weight
WEIGHTED = COMPARED | {"LSTM", "GRU", "RNN"}

Weight = tuple[tuple[int, ...], bytes]
"""shape, and hash of the values"""


@dataclass(frozen=True, slots=True)
class LayerOutputs:
    """An ONNX file whose layers are outputs of the graph."""

    path: Path
    weights: Mapping[str, Weight]  # by name of the layer in the module
    written: Mapping[Weight, Sequence[str]]  # names of the values in the file, in the order of execution

    @property
    def outputs(self) -> list[str]:
        return [name for names in self.written.values() for name in names]

    def of(self, module: nn.Module, inputs: Sequence[Tensor]) -> list[Array]:
        """Run the module and record the outputs of the same layers.

        Args:
            module: The module.
            inputs: A batch.

        Returns:
            The outputs, in the order of `outputs`.
        """
        arrays: dict[Weight, list[Array]] = {weight: [] for weight in self.written}

        def _copy(name: str, output: object) -> None:
            arrays[self.weights[name]].extend(leaf.numpy().copy() for leaf in tree_leaves(output))

        names = [name for name, weight in self.weights.items() if weight in arrays]
        copied = copy_module(module)
        with observe_outputs(copied, names, _copy):
            run_seeded(copied, *inputs)
        return [array for layer_arrays in arrays.values() for array in layer_arrays]


@contextmanager
def layer_outputs_before_discrete_ops(path: Path, module: nn.Module) -> Iterator[LayerOutputs | None]:
    """Copy a file so that its layers before the first discrete operator become outputs of the graph.

    Args:
        path: The ONNX file; the copy is a temporary file beside it.
        module: The module that it was exported from.

    Returns:
        A context manager with the copy. None if there is no discrete operator, or if a layer that cannot be compared
        precedes one: the other layers would not cover it.
    """
    layers = {name: layer for name, layer in module.named_modules() if has_filters(layer)}
    weights = {name: _weight(layer.weight.detach().numpy()) for name, layer in layers.items()}
    with_bias = {weights[name] for name, layer in layers.items() if getattr(layer, "bias", None) is not None}
    model = ir.load(path)
    first, dependent = _first_discrete(model.graph)
    compared = {
        value: weight
        for node in model.graph
        if node.op_type in COMPARED
        and (weight := _node_weight(node)) in set(weights.values())
        and (value := _layer_output(node, has_bias=weight in with_bias)) is not None
        and value not in dependent
    }
    if not first or not _covered(first, compared):
        yield None
        return
    written: dict[Weight, list[str]] = {}
    for value, weight in compared.items():
        written.setdefault(weight, []).append(str(value.name))
        if value not in model.graph.outputs:
            model.graph.outputs.append(value)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        copy = Path(folder) / path.name
        data = f"{path.name}.data" if path.with_name(f"{path.name}.data").exists() else None
        ir.save(model, copy, external_data=data)
        yield LayerOutputs(copy, weights, written)


def _first_discrete(graph: ir.Graph) -> tuple[list[ir.Node], set[ir.Value]]:
    """The discrete operators that depend on no other one, and all values that depend on a discrete operator."""
    first: list[ir.Node] = []
    dependent: set[ir.Value] = set()
    for node in graph:
        nodes = list(_with_subgraphs(node))
        is_dependent = any(value in dependent for inner in nodes for value in inner.inputs)
        is_discrete = any(inner.op_type in DISCRETE for inner in nodes)
        if is_discrete and not is_dependent:
            first.append(node)
        if is_discrete or is_dependent:
            dependent.update(node.outputs)
    return first, dependent


def _with_subgraphs(node: ir.Node) -> Iterator[ir.Node]:
    """The node and all nodes in its subgraphs."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()


def _covered(discrete: Iterable[ir.Node], compared: Mapping[ir.Value, Weight]) -> bool:
    """Whether every path from a weight to a discrete operator passes through a layer that is compared."""
    pending = [value for node in discrete for inner in _with_subgraphs(node) for value in inner.inputs]
    visited: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        if value is None or value in visited or value in compared:
            continue
        visited.add(value)
        node = value.producer()
        if node is not None:
            if node.op_type in WEIGHTED and _node_weight(node) is not None:
                return False
            pending += [source for inner in _with_subgraphs(node) for source in inner.inputs]
    return bool(compared)


def _node_weight(node: ir.Node) -> Weight | None:
    """The weight of the layer that a node computes, if it is a constant. MatMul multiplies by its transpose."""
    value = node.inputs[1]
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    if constant is None:
        return None
    values = constant.numpy()
    return _weight(np.ascontiguousarray(values.T) if node.op_type == "MatMul" else values)


def _layer_output(node: ir.Node, *, has_bias: bool) -> ir.Value | None:
    """The output of the layer that a node computes. The Add after a MatMul adds the bias; None if it is not found."""
    value = node.outputs[0]
    if node.op_type != "MatMul" or not has_bias:
        return value
    users = [use.node for use in value.uses()]
    return users[0].outputs[0] if len(users) == 1 and users[0].op_type == "Add" else None


def _weight(values: Array) -> Weight:
    return values.shape, hashlib.sha256(values.tobytes()).digest()
