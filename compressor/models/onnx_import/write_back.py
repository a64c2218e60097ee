"""Write a slim module back into the graph that it came from.

Nothing else of the graph changes: names, order, types and dynamic axes of inputs and outputs, operators and metadata
are those of the given file. What changes are weights, and the integers that hold a width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compressor.atomic_write import write_bytes
from compressor.models.onnx_import.if_nodes import Branches
from compressor.models.onnx_import.imported_module import ImportedModule, JoinedSlice, OperatorNode
from compressor.models.onnx_import.layers import layer_kinds
from compressor.models.onnx_import.layers.base import Editor
from compressor.models.onnx_import.padding import PADS_ARE_INPUTS, as_pads, pad_axes
from compressor.models.onnx_import.read_graph import WITHOUT_WEIGHTS, read_model

ARCHITECTURE = "architecture.onnx"
KEPT_ENTRIES = 1024  # a constant of the architecture file that is no larger keeps its values
WHERE_SINCE = 9  # the opset that has Where


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
    editor = _GraphEditor(read_model(given, module.branches))
    kinds = layer_kinds()
    for path, op, nodes in module.written:
        kinds[op].write(module.get_submodule(path), nodes, editor)
    for name, path in module.tensors.items():
        editor.replace_everywhere(name, module.tensor(path))
    shapes = _output_shapes(module, examples)
    for path, index in module.operators_written:
        _write_sizes(module.get_submodule(path), index, shapes, editor)
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
        if tensor.data_type in _FLOATS and int(np.prod(tensor.dims, dtype=np.float64)) > KEPT_ENTRIES:
            bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(bare)
    if all(entry.key != WITHOUT_WEIGHTS for entry in model.metadata_props):
        model.metadata_props.add(key=WITHOUT_WEIGHTS, value="1")
    write_bytes(path, model.SerializeToString())


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class _GraphEditor(Editor):
    """Changes a model in place; nodes are found by their index in the given file."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._nodes: list[NodeProto] = list(model.graph.node)
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers = Counter(name for node in self._nodes for name in node.input)
        self._copies: dict[tuple[str, object], str] = {}  # a shared constant and the tensor in its place -> new name
        self._new: dict[str, str] = {}  # name of a constant -> name of the one that replaces it
        self._after: dict[int, list[NodeProto]] = {}
        self._types = {name: tensor.data_type for name, tensor in self._initializers.items()}
        self._float = next((kind for kind in self._types.values() if kind in _FLOATS), TensorProto.FLOAT)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return next(int(entry.version) for entry in self._model.opset_import if entry.domain in ("", "ai.onnx"))

    def node(self, index: int) -> NodeProto:
        return self._nodes[index]

    def set_input(self, index: int, position: int, tensor: Tensor) -> None:
        """Make an input a constant, as `Editor.set_input` does.

        Args:
            index: The node's index in the given file.
            position: The input.
            tensor: Its value.
        """
        node = self._nodes[index]
        while len(node.input) <= position:
            node.input.append("")
        name = node.input[position] or f"{node.output[0]}_{position}"
        if self._readers[name] > 1:  # others may keep the value that this node loses
            at = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            name = self._copies.setdefault((name, at), f"{name}_{len(self._copies)}")
        node.input[position] = self.replace_constant(name, tensor)

    def replace_constant(self, name: str, tensor: Tensor) -> str:
        """Give a constant another value.

        Args:
            name: Its name. Where a node makes it, an initializer takes the node's place.
            tensor: The value.

        Returns:
            The name under which it is stored.
        """
        array = _numbers(tensor, self._types.get(name, self._float))
        known = self._initializers.get(name)
        if known is None:
            name = self._new.setdefault(name, f"{name}_slim")
            known = self._initializers[name] = self._model.graph.initializer.add()
        known.CopyFrom(numpy_helper.from_array(array, name))
        return name

    def replace_everywhere(self, name: str, tensor: Tensor) -> None:
        """Give a constant another value for all nodes that read it.

        Args:
            name: Its name.
            tensor: The value.
        """
        new = self.replace_constant(name, tensor)
        for node in self._nodes if new != name else ():
            for at, given in enumerate(node.input):
                if given == name:
                    node.input[at] = new

    def set_numbers(self, index: int, position: int, values: Sequence[int]) -> None:
        """Make an input of a node an array of integers, which no other node gets.

        Args:
            index: The node's index in the given file.
            position: The input.
            values: The integers.
        """
        node = self._nodes[index]
        name = f"{node.output[0]}_{position}_slim"
        self._model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        node.input[position] = name

    def overwrite(self, index: int, position: int, entries: Mapping[int, int], count: int) -> None:
        """Replace some entries of sizes that the graph computes.

        Args:
            index: The node that reads the sizes.
            position: Its input.
            entries: Place -> value.
            count: Number of all entries.
        """
        node = self._nodes[index]
        given, base = node.input[position], f"{node.output[0]}_{position}_slim"
        mask = np.array([at in entries for at in range(count)])
        values = np.array([entries.get(at, 0) for at in range(count)], np.int64)
        before = self._after.setdefault(-index - 1, [])
        if self.opset >= WHERE_SINCE:
            self._add_arrays({f"{base}_mask": mask, f"{base}_values": values})
            before.append(helper.make_node("Where", [f"{base}_mask", f"{base}_values", given], [base], base))
        else:
            self._add_arrays({f"{base}_kept": (~mask).astype(np.int64), f"{base}_values": values})
            before.append(helper.make_node("Mul", [given, f"{base}_kept"], [f"{base}_rest"], f"{base}_rest"))
            before.append(helper.make_node("Add", [f"{base}_rest", f"{base}_values"], [base], base))
        node.input[position] = base

    def _add_arrays(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())

    def set_attribute(self, index: int, name: str, value: Any) -> None:
        """Set an attribute, as `Editor.set_attribute` does.

        Args:
            index: The node's index in the given file.
            name: The attribute.
            value: Its value.
        """
        node = self._nodes[index]
        others = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend([*others, helper.make_attribute(name, value)])

    def reshape_like(self, index: int, name: str) -> None:
        """Give the result of a Reshape the shape of another value, as `Editor.reshape_like` does.

        Args:
            index: The Reshape's index in the given file.
            name: The other value.
        """
        node = self._nodes[index]
        shape = f"{node.output[0]}_shape_slim"
        self._after.setdefault(-index - 1, []).append(helper.make_node("Shape", [name], [shape], shape))
        node.input[1] = shape

    def add_after(self, index: int, op: str, tensor: Tensor) -> None:
        """Apply an operator to a result, as `Editor.add_after` does.

        Args:
            index: The node's index in the given file.
            op: `Add` or `Mul`.
            tensor: The constant.
        """
        node = self._nodes[index]
        out, name = node.output[0], f"{node.output[0]}_{op.lower()}_slim"
        self._add_arrays({name: _numbers(tensor, self._float)})
        node.output[0] = f"{out}_before_{op.lower()}"
        self._after.setdefault(index, []).append(helper.make_node(op, [node.output[0], name], [out], f"{name}_node"))

    def finished(self, metadata: Mapping[str, str]) -> ModelProto:
        """Put the nodes together, and drop constants that nothing reads any more."""
        graph = self._model.graph
        nodes = [
            part
            for index, node in enumerate(self._nodes)
            for part in (*self._after.get(-index - 1, ()), node, *self._after.get(index, ()))
        ]
        nodes = _needed(nodes, {value.name for value in graph.output})
        read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        kept = [TensorProto.FromString(one.SerializeToString()) for one in graph.initializer if one.name in read]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(copies)
        graph.initializer.extend(kept)
        _as_inputs(graph, {tensor.name: tuple(tensor.dims) for tensor in kept})
        known = {entry.key: entry for entry in self._model.metadata_props}
        for key, value in metadata.items():
            (known.get(key) or self._model.metadata_props.add(key=key)).value = value
        return self._model


def _as_inputs(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Keep weights that are inputs of the graph, too, as old exporters list them, at their new shapes."""
    for value in graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shapes[value.name]))


def _needed(nodes: Sequence[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes that an output depends on."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _numbers(tensor: Tensor, element_type: int) -> np.ndarray[Any, Any]:
    array = tensor.detach().cpu().contiguous().numpy()
    return array.astype(helper.tensor_dtype_to_np_dtype(element_type)) if array.dtype.kind == "f" else array


def _output_shapes(module: ImportedModule, examples: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every value while the module runs."""
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.no_grad():
        for _, results in module.intermediate(*examples):
            shapes |= {name: tuple(value.shape) for name, value in results.items() if isinstance(value, Tensor)}
    return shapes


def _write_sizes(operator: nn.Module, index: int, shapes: Mapping[str, tuple[int, ...]], editor: _GraphEditor) -> None:
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
    elif now.output_sizes is not None and given.output_sizes is not None:
        pairs = enumerate(zip(now.output_sizes, given.output_sizes, strict=True))
        changed = {at: size for at, (size, before) in pairs if size != before}
        if 1 in operator.fixed:
            editor.set_numbers(index, 1, now.output_sizes)
        else:
            editor.overwrite(index, 1, changed, len(now.output_sizes))


def _write_bound(index: int, opset: int, position: int, name: str, value: int, editor: _GraphEditor) -> None:
    if opset < 10:
        editor.set_attribute(index, name, [value])
    else:
        editor.set_numbers(index, position, [value])


def _write_joined(joined: JoinedSlice, shapes: Mapping[str, tuple[int, ...]], editor: _GraphEditor) -> None:
    """Write the bounds of a Slice that takes one of several equal parts."""
    width = shapes[joined.output][joined.axis]
    if joined.fixed:
        _write_bound(joined.node, joined.opset, 1, "starts", joined.part * width, editor)
        _write_bound(joined.node, joined.opset, 2, "ends", (joined.part + 1) * width, editor)
