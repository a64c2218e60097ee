"""Which nodes of a graph make and read each value, and the patterns of primitive operators that are one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from compressor.models.onnx_import.node import Node


@dataclass(frozen=True, slots=True)
class Links:
    """The nodes of a graph, by the names of the values between them."""

    nodes: tuple[Node, ...]
    outputs: frozenset[str]  # of the graph
    makers: Mapping[str, int] = field(default_factory=dict)
    readers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Sequence[Node], outputs: Sequence[str]) -> Links:
        """Collect the links.

        Args:
            nodes: The nodes, in an order in which they can run.
            outputs: The names of the graph's outputs.

        Returns:
            The links.
        """
        readers: dict[str, list[int]] = {}
        for index, node in enumerate(nodes):
            for name in node.inputs:
                readers.setdefault(name, []).append(index)
        makers = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
        return cls(tuple(nodes), frozenset(outputs), makers, {name: tuple(at) for name, at in readers.items()})

    def only_reader(self, name: str, *ops: str) -> int | None:
        """Find the node that alone reads a value.

        Args:
            name: The value.
            ops: The operators that it may be.

        Returns:
            The node's index; None where the value has several readers, or is an output of the graph.
        """
        readers = self.readers.get(name, ())
        if name in self.outputs or len(readers) != 1:
            return None
        node = self.nodes[readers[0]]
        return readers[0] if node.op in ops and not node.domain else None

    def other_input(self, index: int, name: str) -> str | None:
        """Return the other input of a node with two inputs.

        Args:
            index: The node.
            name: One of its inputs.

        Returns:
            The name of the other one; None where both are the same.
        """
        others = [other for other in self.nodes[index].inputs if other != name]
        return others[0] if len(others) == 1 else None

    def inputs_of(self, name: str, inputs: Sequence[str]) -> Iterator[str]:
        """Find the inputs of the graph whose values a value depends on.

        Args:
            name: The value.
            inputs: The names of the graph's inputs.

        Yields:
            Those inputs that are read on the way to the value, but for their sizes.
        """
        names, seen = [name], {name}
        while names:
            name = names.pop()
            if name in inputs:
                yield name
            node = self.nodes[self.makers[name]] if name in self.makers else None
            before = () if node is None or node.op in ("Shape", "Size") else node.inputs
            names += [other for other in before if other not in seen]
            seen |= set(before)
