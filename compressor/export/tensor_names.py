"""The names of inputs and outputs in an ONNX file, by which runtimes feed it and read its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import NameFixPass
from torch import Tensor, nn

from compressor.errors import ModelError
from compressor.execution.run_copy import run_copy
from compressor.file_module import FileModule
from compressor.tensors import is_flat, tree_leaves, tree_names


@dataclass(frozen=True, slots=True)
class TensorNames:
    """The names of inputs and outputs in the file."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flat: bool = True  # whether exporters accept the output without flattening

    @classmethod
    def of(cls, module: nn.Module, batch: Sequence[Tensor], inputs: Sequence[str]) -> TensorNames:
        """Name outputs by key, field or index (see `tree_names`), and none as an input.

        Args:
            module: The module, of which a copy runs. That of an ONNX file has the names of the file.
            batch: A tensor for each input.
            inputs: Their names.

        Returns:
            The names.

        Raises:
            ModelError: An output holds complex numbers, for which ONNX Runtime has no type.
        """
        if isinstance(module, FileModule):
            return cls(module.inputs, module.outputs)
        output = run_copy(module, *batch)
        own = tree_names(output)
        if complex_ones := [name for name, leaf in zip(own, tree_leaves(output), strict=True) if leaf.is_complex()]:
            problem = f"output {complex_ones[0]} holds complex numbers, which no ONNX file returns"
            hint = "wrap the network: return torch.view_as_real of it, with a last dimension of 2"
            raise ModelError("export/complex-output", type(module).__name__, problem, hint)
        taken, outputs = {*inputs, *own}, list[str]()
        for name in own:
            if name in (*inputs, *outputs):
                while name in taken:
                    name = f"output_{name}"
                taken.add(name)
            outputs.append(name)
        return cls(tuple(inputs), tuple(outputs), is_flat(output))

    def difference(self, session: onnxruntime.InferenceSession) -> str | None:
        """Say in what the names of a file are others; None where they are these."""
        for kind, names, nodes in (
            ("inputs", self.inputs, session.get_inputs()),
            ("outputs", self.outputs, session.get_outputs()),
        ):
            present = tuple(node.name for node in nodes)
            if present != names:
                return f"its {kind} are {', '.join(present) or 'none'} instead of {', '.join(names)}"
        return None


def name_tensors(model: ir.Model, names: TensorNames) -> None:
    """Give every input and output its name, where exporters and passes gave it another.

    An output that is an input, a constant, or an output under another name too becomes a copy of it: one value of a
    graph has one name.

    Args:
        model: The model, which is changed.
        names: The names, as many as the model has inputs and outputs.
    """
    graph = model.graph
    for at, value in enumerate(graph.outputs):
        if value.producer() is None or value in graph.outputs[:at]:
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.append(copy)
            graph.outputs[at] = copy.outputs[0]
    values, wanted = [*graph.inputs, *graph.outputs], [*names.inputs, *names.outputs]
    if [value.name for value in values] != wanted:
        for value, name in zip(values, wanted, strict=True):
            value.name = name
        NameFixPass()(model)  # the names of inputs and outputs stay; other values give way
