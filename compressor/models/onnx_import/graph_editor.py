"""Changes the constants, sizes and attributes of an ONNX graph in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

WHERE_SINCE = 9  # the opset that has Where


FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class GraphEditor:
    """Changes a model in place; nodes are found by their index in the given file."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._nodes: list[NodeProto] = list(model.graph.node)
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers = Counter(name for node in self._nodes for name in node.input)
        self._copies: dict[tuple[str, object], str] = {}  # a shared constant and the tensor in its place -> new name
        self._new: dict[str, str] = {}  # name of a constant -> name of the one that replaces it
        self._before: dict[int, list[NodeProto]] = {}  # index of a node -> nodes that are added before it
        self._after: dict[int, list[NodeProto]] = {}
        self._floats = _floating_point_values(model.graph)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return next(int(entry.version) for entry in self._model.opset_import if entry.domain in ("", "ai.onnx"))

    def node(self, index: int) -> NodeProto:
        """Return the node at an index of the given file."""
        return self._nodes[index]

    def set_input(self, index: int, position: int, tensor: Tensor) -> None:
        """Make an input of a node a constant.

        Args:
            index: The node's index in the given file.
            position: The input; missing ones before it are left out, as ONNX writes them.
            tensor: Its value, which is cast to the element type that the input has.
        """
        node = self._nodes[index]
        while len(node.input) <= position:
            node.input.append("")
        name = node.input[position] or f"{node.output[0]}_{position}"
        if self._readers[name] > 1:  # others may keep the value that this node loses
            at = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            copy = self._copies.setdefault((name, at), f"{name}_{len(self._copies)}")
            self._floats.setdefault(copy, self._floats.get(name, TensorProto.FLOAT))
            name = copy
        self._floats.setdefault(name, self._floats.get(node.output[0], TensorProto.FLOAT))
        node.input[position] = self.replace_constant(name, tensor)

    def replace_constant(self, name: str, tensor: Tensor) -> str:
        """Give a constant another value.

        Args:
            name: Its name. Where a node makes it, an initializer takes the node's place.
            tensor: The value.

        Returns:
            The name under which it is stored.
        """
        array = _numbers(tensor, self._floats.get(name, TensorProto.FLOAT))
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
        before = self._before.setdefault(index, [])
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
        """Set an attribute of a node.

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
        """Give the result of a Reshape the shape of another value.

        Args:
            index: The Reshape's index in the given file.
            name: The other value.
        """
        node = self._nodes[index]
        shape = f"{node.output[0]}_shape_slim"
        self._before.setdefault(index, []).append(helper.make_node("Shape", [name], [shape], shape))
        node.input[1] = shape

    def add_after(self, index: int, op: str, tensor: Tensor) -> None:
        """Apply an operator with a constant to the result of a node.

        Args:
            index: The node's index in the given file.
            op: `Add` or `Mul`.
            tensor: The constant.
        """
        node = self._nodes[index]
        out, name = node.output[0], f"{node.output[0]}_{op.lower()}_slim"
        self._add_arrays({name: _numbers(tensor, self._floats.get(out, TensorProto.FLOAT))})
        node.output[0] = f"{out}_before_{op.lower()}"
        self._after.setdefault(index, []).append(helper.make_node(op, [node.output[0], name], [out], f"{name}_node"))

    def finished(self, metadata: Mapping[str, str]) -> ModelProto:
        """Put the nodes together, and drop constants that nothing reads any more."""
        graph = self._model.graph
        nodes = [
            part
            for index, node in enumerate(self._nodes)
            for part in (*self._before.get(index, ()), node, *self._after.get(index, ()))
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


def _floating_point_values(graph: onnx.GraphProto) -> dict[str, int]:
    """The element type of every floating-point value. Operators answer in the type of their first such input."""
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    floats = {name: kind for name, kind in kinds.items() if kind in FLOATS}
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Cast":
            kind = attributes["to"].i
        elif node.op_type == "Constant":
            kind = attributes["value"].t.data_type if "value" in attributes else TensorProto.FLOAT
        else:
            kind = next((floats[name] for name in node.input if name in floats), TensorProto.UNDEFINED)
        if kind in FLOATS:
            floats.update(dict.fromkeys(node.output, kind))
    return floats


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
