"""One node of an ONNX graph as plain data, without the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, numpy_helper

from compressor.errors import ModelError

STANDARD = ("", "ai.onnx")
NODE_FAILS = "onnx-model/node-fails"
SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


class SharedByCopies:
    """A frozen record. Copies of a module share it, because trial removals copy thousands of records many times."""

    __slots__ = ()

    def __deepcopy__(self, memo: object) -> Self:
        return self


@dataclass(frozen=True, slots=True)
class Node(SharedByCopies):
    """An operator call of the file. `name` is unique in the graph; an absent input or output is an empty name."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 0

    @classmethod
    def of(cls, proto: NodeProto, name: str, opset: int) -> Node:
        """Read a node.

        Args:
            proto: The node of the file.
            name: Its name, unique in the graph.
            opset: The version of its operator set.

        Returns:
            The record.
        """
        values = {one.name: _value(one) for one in proto.attribute if one.type not in SUBGRAPHS}
        domain = "" if proto.domain in STANDARD else proto.domain
        return cls(proto.op_type, domain, name, tuple(proto.input), tuple(proto.output), values, opset)

    @property
    def kind(self) -> str:
        """The operator with its domain, where that is not ONNX's own."""
        return f"{self.domain}::{self.op}" if self.domain else self.op

    def get(self, attribute: str, default: Any = None) -> Any:
        """Look up an attribute.

        Args:
            attribute: Its name.
            default: Its value where the file has none.

        Returns:
            An int, float, str, tuple or array.
        """
        return self.attributes.get(attribute, default)

    def renamed(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Node:
        """Copy the node with other inputs and outputs.

        Args:
            inputs: The names of its inputs.
            outputs: The names of its outputs.

        Returns:
            The copy.
        """
        return replace(self, inputs=inputs, outputs=outputs)


def node_names(nodes: Sequence[NodeProto]) -> list[str]:
    """Give every node a name that no other has: its own, or its operator with a number."""
    names: list[str] = []
    used: set[str] = set()
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op_type}_{index}"
        name = name if name not in used else f"{name}_{index}"
        used.add(name)
        names.append(name)
    return names


def unsupported(node: Node, problem: str) -> ModelError:
    """Describe a node that cannot be imported.

    Args:
        node: The node.
        problem: What of it is not supported.

    Returns:
        The error.
    """
    hint = "export the model without this operator, or compress it from its PyTorch code"
    return ModelError("onnx-model/unsupported-operator", f"node {node.name} ({node.kind})", problem, hint)


def node_fails(node: Node, error: Exception) -> ModelError:
    """Describe a node that fails on the values that it gets.

    Args:
        node: The node.
        error: What it raised.

    Returns:
        The error.
    """
    reason = next(iter(str(error).strip().splitlines()), "")[:200]
    problem, hint = f"it fails ({type(error).__name__}: {reason})", "set model.input to the shapes that it expects"
    return ModelError(NODE_FAILS, f"node {node.name} ({node.kind})", problem, hint)


def _value(attribute: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    match attribute.type:
        case AttributeProto.STRING:
            return value.decode()
        case AttributeProto.STRINGS:
            return tuple(text.decode() for text in value)
        case AttributeProto.TENSOR:
            return numpy_helper.to_array(value)
        case AttributeProto.FLOATS | AttributeProto.INTS:
            return tuple(value)
    return value


def float_value(value: Any) -> float:
    """The number in an array of one entry, as float32 stores it."""
    return float(np.asarray(value).reshape(-1)[0])
