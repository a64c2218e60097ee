"""Write a slim module back into the graph that it came from.

Nothing else of the graph changes: names, order, types and dynamic axes of inputs and outputs, operators and metadata
are those of the given file. What changes are weights, and the integers that hold a width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from compressor.atomic_write import write_bytes
from compressor.models.onnx_import.graph_editor import FLOATS, GraphEditor
from compressor.models.onnx_import.if_nodes import Branches
from compressor.models.onnx_import.imported_module import AS_COMPUTED, ImportedModule, JoinedSlice, OperatorNode
from compressor.models.onnx_import.layers import layer_kinds
from compressor.models.onnx_import.padding import PADS_ARE_INPUTS, as_pads, pad_axes
from compressor.models.onnx_import.read_graph import WITHOUT_WEIGHTS, read_model
from compressor.models.onnx_import.values import HostArray, ints, is_host

ARCHITECTURE = "architecture.onnx"
KEPT_ENTRIES = 1024  # a constant of the architecture file that is no larger keeps its values


def write_module(module: nn.Module, given: Path, examples: Sequence[Tensor], metadata: Mapping[str, str]) -> ModelProto:
    """Put the weights and sizes of a module into a copy of the graph that it was imported from.

    Args:
        module: The module, which may have been pruned and trained.
        given: The file that it was imported from.
        examples: One sample of each input, to see the sizes of splits.
        metadata: Added to the file's own.

    Returns:
        The model.
    """
    assert isinstance(module, ImportedModule), "the module that build made"
    editor = GraphEditor(read_model(given, module.branches))
    kinds = layer_kinds()
    for path, written in module.written.items():
        kinds[written.kind].write(module.get_submodule(path), written.nodes, editor)
    for name, path in module.tensors.items():
        editor.replace_everywhere(name, module.tensor(path))
    shapes, arrays = _results(module, examples)
    for path, index in module.operators_written:
        _write_sizes(module.get_submodule(path), index, shapes, arrays, editor)
    for joined in module.joined:
        _write_joined(joined, shapes, editor)
    return editor.finished(metadata)


def write_architecture(given: Path, path: Path, branches: Branches = ()) -> None:
    """Write a graph without the data of its large weights, from which the module can be built again.

    Args:
        given: The file; it may be such a file itself.
        path: The file to write.
        branches: Of Ifs, which the nodes take the place of.
    """
    model = read_model(given, branches)
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS and int(np.prod(tensor.dims, dtype=np.float64)) > KEPT_ENTRIES:
            bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(bare)
    if all(entry.key != WITHOUT_WEIGHTS for entry in model.metadata_props):
        model.metadata_props.add(key=WITHOUT_WEIGHTS, value="1")
    write_bytes(path, model.SerializeToString())


def _results(
    module: ImportedModule, examples: Sequence[Tensor]
) -> tuple[dict[str, tuple[int, ...]], dict[str, HostArray]]:
    """The shape of every tensor while the module runs, and the arrays on the host."""
    shapes: dict[str, tuple[int, ...]] = {}
    arrays: dict[str, HostArray] = {}
    with torch.no_grad():
        for _, results in module.intermediate(*examples):
            shapes |= {name: tuple(value.shape) for name, value in results.items() if isinstance(value, Tensor)}
            arrays |= {name: value for name, value in results.items() if is_host(value)}
    return shapes, arrays


def _write_sizes(
    operator: nn.Module,
    index: int,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Mapping[str, HostArray],
    editor: GraphEditor,
) -> None:
    """Write the integers of one node that follow widths, where they are others than in the file."""
    assert isinstance(operator, OperatorNode), "the module that build made"
    node, now, given = operator.node, operator.integers, operator.given
    if node.op == "Split" and given.output_sizes is not None:
        sizes = [shapes[name][node.get("axis", 0)] for name in node.outputs]
        if list(given.output_sizes) == sizes:
            return
        if node.opset < 13:
            editor.set_attribute(index, "split", sizes)
        else:
            editor.set_numbers(index, 1, sizes)
    elif (computed := _computed_sizes(operator, arrays)) is not None:
        pairs = enumerate(zip(now.output_sizes or (), ints(computed), strict=True))
        if changed := {at: size for at, (size, before) in pairs if size not in (before, AS_COMPUTED)}:
            editor.overwrite(index, 1, changed, computed.size)
    elif now == given:
        return
    elif node.op == "Pad" and now.padding is not None:
        rank = len(shapes[node.outputs[0]])
        pads = as_pads(now.padding, pad_axes(rank, operator.fixed.get(3)), rank)
        if node.opset < PADS_ARE_INPUTS:
            editor.set_attribute(index, "pads", pads)
        else:
            editor.set_numbers(index, 1, pads)
    elif node.op == "Slice":
        for position, name, value in ((1, "starts", now.begin), (2, "ends", now.end)):
            if value is not None:
                _write_bound(index, node.opset, position, name, value, editor)
    elif now.output_sizes is not None:
        editor.set_numbers(index, 1, now.output_sizes)


def _computed_sizes(operator: OperatorNode, arrays: Mapping[str, HostArray]) -> HostArray | None:
    """The sizes that the graph computes for a Reshape or Expand, as the slim module's widths make them."""
    if operator.node.op not in ("Reshape", "Expand") or operator.output_sizes is None or 1 in operator.fixed:
        return None
    return arrays[operator.node.inputs[1]]


def _write_bound(index: int, opset: int, position: int, name: str, value: int, editor: GraphEditor) -> None:
    if opset < 10:
        editor.set_attribute(index, name, [value])
    else:
        editor.set_numbers(index, position, [value])


def _write_joined(joined: JoinedSlice, shapes: Mapping[str, tuple[int, ...]], editor: GraphEditor) -> None:
    """Write the bounds of a Slice that takes one of several equal parts."""
    width = shapes[joined.output][joined.axis]
    if joined.fixed:
        _write_bound(joined.node, joined.opset, 1, "starts", joined.part * width, editor)
        _write_bound(joined.node, joined.opset, 2, "ends", (joined.part + 1) * width, editor)
