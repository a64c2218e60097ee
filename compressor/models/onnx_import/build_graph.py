"""Build the module of a graph by running it: each node is built when the values that it reads are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.models.onnx_import.activations import refuse_large, with_last_uses
from compressor.models.onnx_import.fixed_sizes import decided_sizes, set_fixed_sizes
from compressor.models.onnx_import.fusions import find_fusion
from compressor.models.onnx_import.host import evaluate_on_host, slice_bounds
from compressor.models.onnx_import.if_nodes import BranchKnown
from compressor.models.onnx_import.imported_module import (
    ImportedModule,
    NodeCall,
    OperatorNode,
    WrittenLayer,
    add_tensor,
    place_module,
)
from compressor.models.onnx_import.layers import layer_kinds
from compressor.models.onnx_import.layers.base import Built, Operands, SharedWeights
from compressor.models.onnx_import.layers.fused_norms import fused_layer
from compressor.models.onnx_import.links import Links
from compressor.models.onnx_import.names import dotted, is_generated, layer_name
from compressor.models.onnx_import.node import Node, node_fails, unsupported
from compressor.models.onnx_import.operators import operators
from compressor.models.onnx_import.read_graph import Graph
from compressor.models.onnx_import.slices import Cut, join_slices
from compressor.models.onnx_import.values import HostArray, Value, is_host, stays_on_host

MOVES = ("Identity", "Cast", "Gather", "Concat", "Slice", "Unsqueeze", "Squeeze", "Reshape")
"""Operators that pass entries of their first input on, or of all inputs."""


def build_imported(graph: Graph, examples: Sequence[Tensor]) -> ImportedModule:
    """Build the module of a graph.

    Args:
        graph: The graph, whose weights are arrays.
        examples: One tensor for each input.

    Returns:
        The module, in eval mode.

    Raises:
        ModelError: A node cannot be imported; the message names it.
    """
    builder = _Builder(graph)
    with torch.inference_mode(False), torch.no_grad():
        return builder.build(examples)


@dataclass(slots=True)
class _Builder:
    graph: Graph
    constants: dict[str, HostArray] = field(init=False)
    links: Links = field(init=False)
    module: ImportedModule = field(init=False)
    shared: SharedWeights = field(default_factory=SharedWeights)
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[NodeCall] = field(default_factory=list)
    fused: set[int] = field(default_factory=set)
    stored: dict[str, HostArray] = field(default_factory=dict)  # which entries of computed sizes the file fixes
    cuts: list[Cut] = field(default_factory=list)
    layers: dict[tuple[str, ...], str] = field(default_factory=dict)  # what decides a layer -> its path

    def build(self, examples: Sequence[Tensor]) -> ImportedModule:
        graph = self.graph
        self.constants = dict(graph.constants)
        self.links = Links.of(graph.nodes, graph.outputs)
        self.module = ImportedModule(graph.inputs, graph.outputs, graph.name)
        self.module.branches = graph.branches
        self.values = dict(zip(graph.inputs, examples, strict=True))
        for index, node in enumerate(graph.nodes):
            if index not in self.fused:
                self._add(index, node)
            self._forget(index, node)
        for name in graph.outputs:
            if name not in self.values:
                self.module.constants[name] = self.constants[name]
        steps = join_slices(self.module, self.steps, self.cuts)
        self.module.steps = with_last_uses(steps, graph.outputs, graph.inputs)
        return self.module.eval()

    def _add(self, index: int, node: Node) -> None:
        if node.op == "If" and not node.domain:
            self._choose(node)
        given = [name for name in node.inputs if name]
        if all(name in self.constants for name in given) and not _draws(node):
            self._fold(node)
            return
        examples = [self.values.get(name) if name else None for name in node.inputs]
        built = self._fusion(index, examples) or self._layer(index, node, examples)
        if built is None:
            self._operator(index, node)

    def _forget(self, index: int, node: Node) -> None:
        """Free activations that no later node reads."""
        for name in (*node.inputs, *node.outputs):
            last = max(self.links.readers.get(name, (-1,)))
            if last <= index and name not in self.links.outputs and isinstance(self.values.get(name), Tensor):
                del self.values[name]

    def _fold(self, node: Node) -> None:
        """Evaluate a node of constants."""
        results = evaluate_on_host(node, [self.constants[name] if name else None for name in node.inputs])
        results = results if isinstance(results, tuple) else (results,)
        self.constants |= {name: np.asarray(array) for name, array in zip(node.outputs, results, strict=False) if name}

    def _choose(self, node: Node) -> NoReturn:
        """Give up, with the branches of this If and of others whose conditions are sizes or constants."""
        conditions = {one.name: one.inputs[0] for one in self.graph.nodes if one.op == "If" and not one.domain}
        known = {name: self.constants.get(value, self.values.get(value)) for name, value in conditions.items()}
        branches = tuple((name, bool(value.all())) for name, value in known.items() if is_host(value))
        if not is_host(known[node.name]):
            names = ", ".join(dict.fromkeys(self.links.inputs_of(node.inputs[0], self.graph.inputs)))
            raise unsupported(node, f"which of its branches runs depends on the values of {names}")
        raise BranchKnown(branches)

    # ------------------------------------------------ layers

    def _fusion(self, index: int, examples: Sequence[Value]) -> bool | None:
        first = examples[0]
        if not isinstance(first, Tensor):
            return None
        fusion = find_fusion(index, self.links, self._constant, first.ndim)
        if fusion is None:
            return None
        built = fused_layer(fusion, self.links, self.constants, tuple(first.shape), self.shared)
        self.fused |= set(fusion.nodes)
        name = layer_name(built.named_after, self.graph.nodes[fusion.nodes[-1]])
        path = place_module(self.module, name, built.module)
        self.module.written[path] = WrittenLayer("written-out normalization", built.nodes)
        self._run(path, built.inputs, built.outputs, index)
        return True

    def _layer(self, index: int, node: Node, examples: Sequence[Value]) -> bool | None:
        kind = None if node.domain else layer_kinds().get(node.op)
        if kind is None or not isinstance(next((one for one in examples if one is not None), None), Tensor):
            return None
        fixed = {at: self.constants[name] for at, name in enumerate(node.inputs) if name in self.constants}
        built = kind.build(Operands(node, fixed, examples, self.shared))
        if built is None:
            return None
        for name in built.inputs:
            if name in self.constants:
                self._register(name, self.constants[name])
        built, added = self._with_bias(built, node)
        nodes = (index, *built.nodes, *added)
        constants = [name for at in (index, *added) for name in self.graph.nodes[at].inputs if name in self.constants]
        shared = any(self.constants[name].ndim > 1 for name in constants)
        key = (node.op, repr(sorted(node.attributes.items())), *constants, "" if shared else node.name)
        path = self.layers.get(key)
        if path is None:
            path = self.layers[key] = place_module(self.module, layer_name(built.named_after, node), built.module)
            self.module.written[path] = WrittenLayer(node.op, nodes)
        else:
            self.module.written[path] = WrittenLayer(node.op, (*self.module.written[path].nodes, *nodes))
        self._run(path, built.inputs, built.outputs, index)
        return True

    def _with_bias(self, built: Built, node: Node) -> tuple[Built, tuple[int, ...]]:
        """Fuse the addition of a constant vector that follows a product."""
        layer = built.module
        if node.op != "MatMul" or not isinstance(layer, nn.Linear):
            return built, ()
        at = self.links.only_reader(node.outputs[0], "Add")
        name = None if at is None else self.links.other_input(at, node.outputs[0])
        vector = None if name is None else self._constant(name)
        if at is None or name is None or vector is None or vector.shape[-1:] != (layer.out_features,):
            return built, ()
        if vector.size != layer.out_features or vector.dtype.kind != "f":
            return built, ()
        layer.bias = self.shared.parameter((name, "", node.name), vector.reshape(-1))
        self.fused.add(at)
        return replace(built, outputs=self.graph.nodes[at].outputs), (at,)

    def _constant(self, name: str) -> HostArray | None:
        """A constant, even of a node that comes later in the file."""
        if name not in self.constants and name in self.links.makers:
            maker = self.graph.nodes[self.links.makers[name]]
            if all(one in self.constants for one in maker.inputs if one) and not _draws(maker):
                self._fold(maker)
        return self.constants.get(name)

    # ------------------------------------------------ operators

    def _operator(self, index: int, node: Node) -> None:
        function = None if node.domain else operators().get(node.op)
        live = [self.values[name] for name in node.inputs if name in self.values]
        on_host = all(is_host(value) for value in live) and not self._repeats_weights(node)
        if node.domain or (function is None and not on_host):
            what = f"operators of the domain {node.domain} are not supported" if node.domain else "it is not supported"
            raise unsupported(node, what)
        fixed: dict[int, HostArray] = {}
        inputs = []
        for at, name in enumerate(node.inputs):
            array = self.constants.get(name)
            if array is None:
                inputs.append(name)
                continue
            inputs.append("")
            if on_host or stays_on_host(node.op, at, array):
                fixed[at] = array
            else:
                inputs[-1] = self._register(name, array)
        operator = OperatorNode(node, function, f"{self.graph.name}:{node.name}", fixed)
        x = next((one for name in inputs if isinstance(one := self.values.get(name), Tensor)), None)
        if x is not None:
            sizes = node.inputs[1] if len(node.inputs) > 1 else ""
            constant = self.graph.constant_sizes.get(node.outputs[0], ())
            decided = decided_sizes(self.values.get(sizes), self.stored.get(sizes), constant)
            set_fixed_sizes(operator, x.ndim, decided)
        path = place_module(self.module, f"operators.{dotted(node.name).replace('.', '_')}", operator)
        self.module.operators_written.append((path, index))
        self._run(path, tuple(inputs), node.outputs, index)
        self._note_stored(node)
        if node.op == "Slice":
            self._note_cut(operator, inputs, path, index)
        operator.given = operator.integers

    def _repeats_weights(self, node: Node) -> bool:
        """Whether it repeats weights that no other value has met yet, such as a class token for every sample."""
        data = self.constants.get(node.inputs[0]) if node.op in ("Expand", "Tile") else None
        return data is not None and data.dtype.kind == "f" and data.size > 1

    def _note_cut(self, operator: OperatorNode, inputs: Sequence[str], path: str, index: int) -> None:
        """Note what a Slice along one axis takes."""
        node, x = operator.node, self.values.get(operator.node.inputs[0])
        bounds = [operator.fixed.get(at, self.values.get(name)) for at, name in enumerate(inputs)][1:]
        if not isinstance(x, Tensor) or any(isinstance(bound, Tensor) for bound in bounds):
            return
        starts, ends, axes, steps = slice_bounds(node, x.ndim, *bounds)
        if len(axes) != 1 or steps != [1]:
            return
        size = x.shape[axes[0]]
        fixed = node.opset < 10 or {1, 2} <= operator.fixed.keys()
        if fixed:
            operator.begin = starts[0] if 0 < starts[0] < size else None
            operator.end = ends[0] if 0 < ends[0] < size else None
        begin, end = (min(max(bound + size * (bound < 0), 0), size) for bound in (starts[0], ends[0]))
        self.cuts.append(Cut(node, path, index, fixed, axes[0], begin, end, size))

    def _note_stored(self, node: Node) -> None:
        """Note which entries of computed sizes are constants of the file."""
        masks = [
            np.ones(np.shape(self.constants[name]), bool) if name in self.constants else self.stored.get(name)
            for name in node.inputs
        ]
        value = self.values[node.outputs[0]]
        if node.op in MOVES and is_host(value) and masks[0] is not None:
            given = [self.constants.get(name, self.values.get(name)) for name in node.inputs]
            data = [one for one in (masks if node.op == "Concat" else [masks[0], *given[1:]]) if is_host(one)]
            if len(data) == len(node.inputs):
                moved = evaluate_on_host(replace(node, op="Identity" if node.op == "Cast" else node.op), data)
                self.stored[node.outputs[0]] = np.asarray(moved)
        elif is_host(value):
            self.stored[node.outputs[0]] = np.zeros(value.shape, bool)

    def _register(self, name: str, array: HostArray) -> str:
        """Make a constant a parameter, or a buffer where the file's exporter made it."""
        if name not in self.module.tensors:
            trained = array.dtype.kind == "f" and name in self.graph.constants and not is_generated(name)
            tensor = self.shared.parameter((name, ""), array) if trained else _buffer(array)
            self.module.tensors[name] = add_tensor(self.module, dotted(name), tensor)
        self.values[name] = self.module.tensor(self.module.tensors[name])
        return name

    def _run(self, path: str, inputs: tuple[str, ...], outputs: tuple[str, ...], index: int) -> None:
        module, node = self.module.get_submodule(path).eval(), self.graph.nodes[index]
        arguments = [self.values[name] if name else None for name in inputs]
        refuse_large(node, module, arguments)
        try:
            results = module(*arguments)
        except CompressorError:
            raise
        except Exception as error:  # operators raise whatever PyTorch raises for impossible arguments
            raise node_fails(node, error) from error
        results = tuple(results) if isinstance(results, tuple | list) else (results,)
        self.values.update((name, value) for name, value in zip(outputs, results, strict=False) if name)
        self.steps.append(NodeCall(path, inputs, outputs[: len(results)], f"{self.graph.name}:{node.name}"))


def _draws(node: Node) -> bool:
    return node.op.startswith("Random") or node.op in ("Bernoulli", "Multinomial")


def _buffer(array: HostArray) -> Tensor:
    if array.dtype.kind == "f":
        return torch.from_numpy(np.array(array, dtype=np.float32))
    return torch.from_numpy(np.array(array))
