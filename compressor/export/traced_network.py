"""A network that the dynamo exporter traced once: the ONNX models of its pruned forms need no other trace.

Before constants are folded, the traced graph has every parameter and buffer under the name that the module gives it.
A form of the network with other widths has the same graph with its own tensors, unless the code computes a size or a
constant from a width: then the file does not run, or its answers differ from the module's, and the module is traced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from torch import nn

from compressor.export.exporters import optimized
from compressor.export.refusals import ExportRefused
from compressor.tensors import named_tensors

GROUPED = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class TracedNetwork:
    """The graph of a module with the constants of its code and without the module's tensors.

    `operators` are those that are left after the graph was optimized.
    """

    graph: ir.Model
    operators: tuple[str, ...]

    @classmethod
    def of(cls, traced: ir.Model, module: nn.Module) -> tuple[TracedNetwork, ir.Model]:
        """Keep the graph of a module for its other forms.

        Args:
            traced: What `trace_by_dynamo` returned; it is used up.
            module: The module that was traced.

        Returns:
            The traced network, and the optimized model of the module itself.
        """
        graph, tensors = traced.clone(), named_tensors(module, every_name=True)
        for name, value in graph.graph.initializers.items():
            if name in tensors:
                value.const_value = None
        _let_flattened_sizes_follow(graph)
        model = optimized(traced)
        return cls(graph, _operators(model)), model

    def with_tensors_of(self, module: nn.Module) -> ir.Model:
        """Make the optimized ONNX model of a module.

        Args:
            module: The module, with tensors of the same names as the traced one and of any widths.

        Returns:
            The model.

        Raises:
            ExportRefused: Other operators are left than of the traced module.
        """
        tensors = named_tensors(module, every_name=True)
        model = self.graph.clone()
        for node in model.graph.all_nodes():
            for value in node.outputs:
                if not value.is_graph_output():  # outputs keep their widths, inner values do not
                    value.shape = None
        for name, value in model.graph.initializers.items():
            if name not in tensors:
                continue
            value.const_value = ir.tensor(tensors[name].detach().numpy(), name=name)
            value.shape = ir.Shape(tensors[name].shape)
            for node, position in value.uses():
                if node.op_type in GROUPED and position == 1:
                    groups = getattr(module.get_submodule(name.rpartition(".")[0]), "groups", None)
                    if isinstance(groups, int):
                        node.attributes["group"] = ir.AttrInt64("group", groups)
        model = optimized(model)
        if _operators(model) != self.operators:
            raise ExportRefused("other operators are left than of the traced module")
        return model


def _operators(model: ir.Model) -> tuple[str, ...]:
    return tuple(node.op_type for node in model.graph.all_nodes())


def _let_flattened_sizes_follow(model: ir.Model) -> None:
    """Let every Reshape to (batch, K) that keeps the batch compute K, which may be a width."""
    sizes: ir.Value | None = None
    for node in list(model.graph):
        if node.op_type != "Reshape" or node.inputs[0] is None:
            continue
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if before is None or after is None or len(after) != 2 or before[0] != after[0]:
            continue
        if sizes is None:
            constant = ir.node("Constant", [], {"value": ir.tensor(np.array([0, -1]))})
            model.graph.insert_before(model.graph[0], constant)
            sizes = constant.outputs[0]
        node.replace_input_with(1, sizes)
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
