"""Gemm and MatMul with a constant matrix as linear layers, and Gather from a constant table as an embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from compressor.models.onnx_import.graph_editor import GraphEditor
from compressor.models.onnx_import.layers.base import Built, LayerKind, Operands
from compressor.models.onnx_import.values import HostArray


def linear_layer(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """Make a linear layer of parameters.

    Args:
        weight: (O, I).
        bias: (O,), or None.

    Returns:
        The layer.
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer


class ProductLayer(LayerKind):
    """`x @ W` with a constant W (I, O). An addition that follows is fused by build_graph.py, and is the second node."""

    def build(self, operands: Operands) -> Built | None:
        if not operands.has(1) or operands.has(0) or operands.constants[1].ndim != 2 or len(operands.shape(0)) < 2:
            return None
        layer = linear_layer(operands.weight(1, np.transpose, tag="T"), None)
        return Built(layer, operands.node.inputs[:1], operands.node.outputs, operands.node.inputs[1])

    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for: products, and additions that were fused.
            editor: Changes the file.
        """
        weight = module.get_parameter("weight").t()
        for index in nodes:
            node = editor.node(index)
            if node.op_type == "Add":
                editor.set_input(index, _constant_side(editor, index, nodes), module.get_parameter("bias"))
                continue
            editor.set_input(index, 1, weight)
            added = any(editor.node(other).op_type == "Add" for other in nodes)
            if module.bias is not None and not added:
                editor.add_after(index, "Add", module.get_parameter("bias"))


def _constant_side(editor: GraphEditor, index: int, nodes: Sequence[int]) -> int:
    products = {name for other in nodes if other != index for name in editor.node(other).output}
    return 0 if editor.node(index).input[1] in products else 1


class AffineProduct(LayerKind):
    """`alpha x @ B + beta c` with constant B and c. The factors are part of the layer's weights."""

    def build(self, operands: Operands) -> Built | None:
        node = operands.node
        if not operands.has(1) or operands.has(0) or node.get("transA") or operands.constants[1].ndim != 2:
            return None
        alpha, beta, transposed = node.get("alpha", 1.0), node.get("beta", 1.0), bool(node.get("transB"))
        outputs = operands.constants[1].shape[0 if transposed else 1]
        if not operands.absent(2) and (not operands.has(2) or operands.constants[2].size not in (1, outputs)):
            return None

        def matrix(array: HostArray) -> HostArray:
            return np.asarray(alpha * (array if transposed else array.T))

        def vector(array: HostArray) -> HostArray:
            return np.asarray(beta * np.broadcast_to(array.reshape(-1), (outputs,)))

        tag = f"{alpha}{'' if transposed else 'T'}"
        weight = operands.weight(1, matrix, tag="" if tag == "1.0" else "T" if tag == "1.0T" else tag)
        bias = None if operands.absent(2) else operands.weight(2, vector, tag="" if beta == 1.0 else str(beta))
        return Built(linear_layer(weight, bias), node.inputs[:1], node.outputs, node.inputs[1])

    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """
        weight = module.get_parameter("weight")
        for index in nodes:
            attributes = {one.name: one for one in editor.node(index).attribute}
            transposed = "transB" in attributes and bool(attributes["transB"].i)
            editor.set_input(index, 1, weight if transposed else weight.t())
            for name in ("alpha", "beta"):
                if name in attributes:
                    editor.set_attribute(index, name, 1.0)
            if module.bias is not None:
                editor.set_input(index, 2, module.get_parameter("bias"))


class Lookup(LayerKind):
    """Rows of a constant table, looked up by integers that are no constants."""

    def build(self, operands: Operands) -> Built | None:
        node, table = operands.node, operands.constants.get(0)
        live = isinstance(operands.examples[1], Tensor) and not operands.has(1)
        if table is None or not live or table.ndim != 2 or table.dtype.kind != "f" or node.get("axis", 0) != 0:
            return None
        layer = nn.Embedding(table.shape[0], table.shape[1], device="meta")
        layer.weight = operands.weight(0)
        return Built(layer, node.inputs[1:2], node.outputs, node.inputs[0])

    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """
        for index in nodes:
            editor.set_input(index, 0, module.get_parameter("weight"))


LAYERS: dict[str, LayerKind] = {"MatMul": ProductLayer(), "Gemm": AffineProduct(), "Gather": Lookup()}
