"""If nodes whose branch is known before the graph runs: the nodes of that branch take their place.

Exporters write If where code asks for sizes: `squeeze` of a dimension that may be one, `batch_first` of an LSTM. The
sizes are known when the module is built, and the slim file has no other branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper

from compressor.errors import ModelError
from compressor.models.onnx_import.node import node_names

Branches = tuple[tuple[str, bool], ...]
"""(name of an If, its condition), in the order in which they are put in place"""

MAX_IFS = 2000
"""Of one file, those inside of branches included: to put one in place takes a look at all that it contains."""


class BranchKnown(Exception):
    """The module cannot be built further before these branches are in place of their Ifs."""

    def __init__(self, branches: Branches) -> None:
        super().__init__(", ".join(name for name, _ in branches))
        self.branches = branches


def read_names(node: NodeProto) -> list[str]:
    """The values that a node reads, those that its subgraphs read from outside included."""
    return [*node.input, *(name for graph in _subgraphs(node) for name in _read_from_outside(graph))]


def count_ifs(nodes: Iterable[NodeProto]) -> int:
    """Count Ifs, those inside of subgraphs included."""
    return sum((node.op_type == "If") + sum(count_ifs(graph.node) for graph in _subgraphs(node)) for node in nodes)


def put_in_place(model: ModelProto, branches: Branches) -> None:
    """Replace Ifs by the nodes of one branch, in place. A name that the model does not have is skipped.

    Args:
        model: The model, whose nodes are in an order in which they can run.
        branches: The Ifs and their conditions.

    Raises:
        ModelError: An If lacks the branch, or outputs of it.
    """
    for name, condition in branches:
        for node, unique in zip(model.graph.node, node_names(model.graph.node), strict=True):
            if node.op_type == "If":
                node.name = unique  # one without a name is called by its index, which changes
        index = next(
            (at for at, node in enumerate(model.graph.node) if (node.op_type, node.name) == ("If", name)), None
        )
        if index is not None:
            _put_one_in_place(model.graph, index, name, "then_branch" if condition else "else_branch")


def _put_one_in_place(graph: GraphProto, index: int, name: str, which: str) -> None:
    node = graph.node[index]
    branch = next((attribute.g for attribute in node.attribute if attribute.name == which), None)
    if branch is None or len(branch.output) != len(node.output):
        problem = f"it has no {which}" if branch is None else f"its {which} has another number of outputs"
        hint = "export it again, or check the download"
        raise ModelError("onnx-model/inconsistent", f"node {name} (If)", problem, hint)
    taken = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    taken |= {made for other in graph.node for made in other.output}
    own = [tensor.name for tensor in branch.initializer] + [made for other in branch.node for made in other.output]
    new = {value: f"{name}/{value}" if value in taken else value for value in own if value}
    made_inside = {made for other in branch.node for made in other.output}
    joints = []
    for value, output in zip(branch.output, node.output, strict=True):
        if not output:
            continue
        if value.name in made_inside and new[value.name] not in node.output:
            new[value.name] = output
        else:
            source = new.get(value.name, value.name)
            joints.append(helper.make_node("Identity", [source], [output], f"{name}/{output}"))
    for tensor in branch.initializer:
        tensor.name = new[tensor.name]
    graph.initializer.extend(branch.initializer)
    for other in branch.node:
        _rename(other, new)
    nodes = [*graph.node[:index], *branch.node, *joints, *graph.node[index + 1 :]]
    copies = [NodeProto.FromString(one.SerializeToString()) for one in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _rename(node: NodeProto, new: Mapping[str, str]) -> None:
    """Rename values wherever a node reads or makes them, in its subgraphs as well."""
    for values in (node.input, node.output):
        for at, value in enumerate(values):
            values[at] = new.get(value, value)
    for graph in _subgraphs(node):
        outer = {old: name for old, name in new.items() if old not in _made(graph)}
        for inner in graph.node:
            _rename(inner, outer)
        for output in graph.output:
            output.name = outer.get(output.name, output.name)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _made(graph: GraphProto) -> set[str]:
    made: Sequence[str] = [name for node in graph.node for name in node.output]
    return {*made, *(tensor.name for tensor in graph.initializer), *(value.name for value in graph.input)}


def _read_from_outside(graph: GraphProto) -> list[str]:
    made = _made(graph)
    read = [name for node in graph.node for name in read_names(node)] + [value.name for value in graph.output]
    return [name for name in read if name and name not in made]
