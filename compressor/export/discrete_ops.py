"""What an ONNX file computes before it chooses by value: the best scores, the boxes that overlap least.

A choice turns a difference in the last digit into another answer, so what comes behind it can be compared only where
scores are far enough apart. Layers are recognised by the weights they hold, whatever an exporter calls them.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor.execution.copies import copy_module
from compressor.execution.randomness import equal_randomness
from compressor.export.tolerance import Array
from compressor.layers import has_filters, observe_outputs
from compressor.tensors import tree_leaves

CHOICES = {"TopK", "NonMaxSuppression", "NonZero", "ArgMax", "ArgMin", "Unique", "Compress"}
COMPARED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # they write what the PyTorch layer with their weight writes
WEIGHTED = COMPARED | {"LSTM", "GRU", "RNN"}

Weight = tuple[tuple[int, ...], bytes]
"""shape, digest of the values"""


@dataclass(frozen=True, slots=True)
class LayerOutputs:
    """A file that can be asked for what these layers write."""

    path: Path
    weights: Mapping[str, Weight]  # by name of the module's layer
    written: Mapping[Weight, Sequence[str]]  # values in the file, in the order in which they are computed

    @property
    def outputs(self) -> list[str]:
        return [name for names in self.written.values() for name in names]

    def of(self, module: nn.Module, inputs: Sequence[Tensor]) -> list[Array]:
        """What the same layers of the module write, in the order of `outputs`."""
        arrays: dict[Weight, list[Array]] = {weight: [] for weight in self.written}

        def copy_output(name: str, output: object) -> None:
            arrays[self.weights[name]].extend(leaf.numpy().copy() for leaf in tree_leaves(output))

        names = [name for name, weight in self.weights.items() if weight in arrays]
        copied = copy_module(module)
        with torch.no_grad(), equal_randomness(), observe_outputs(copied, names, copy_output):
            copied(*inputs)
        return [array for layer_arrays in arrays.values() for array in layer_arrays]


@contextmanager
def layer_outputs_before_discrete_ops(path: Path, module: nn.Module) -> Iterator[LayerOutputs | None]:
    """A copy of the file beside it that tells what its layers write before any choice.

    None when the file chooses nothing, or when a layer that is not comparable lies between the others and a choice:
    they would not vouch for it.
    """
    layers = {name: layer for name, layer in module.named_modules() if has_filters(layer)}
    weights = {name: _weight(layer.weight.detach().numpy()) for name, layer in layers.items()}
    biased = {weights[name] for name, layer in layers.items() if getattr(layer, "bias", None) is not None}
    model = ir.load(path)
    first, behind = _choices(model.graph)
    compared = {
        value: weight
        for node in model.graph
        if node.op_type in COMPARED
        and (weight := _held(node)) in set(weights.values())
        and (value := _written(node, biased=weight in biased)) is not None
        and value not in behind
    }
    if not first or not _vouched(first, compared):
        yield None
        return
    written: dict[Weight, list[str]] = {}
    for value, weight in compared.items():
        written.setdefault(weight, []).append(str(value.name))
        if value not in model.graph.outputs:
            model.graph.outputs.append(value)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        copy = Path(folder) / path.name
        data = f"{path.name}.data" if path.with_name(f"{path.name}.data").exists() else None
        ir.save(model, copy, external_data=data)
        yield LayerOutputs(copy, weights, written)


def _choices(graph: ir.Graph) -> tuple[list[ir.Node], set[ir.Value]]:
    """The choices before which there is none, and all values that hang on a choice."""
    first: list[ir.Node] = []
    behind: set[ir.Value] = set()
    for node in graph:
        parts = list(_parts(node))
        after = any(value in behind for part in parts for value in part.inputs)
        chooses = any(part.op_type in CHOICES for part in parts)
        if chooses and not after:
            first.append(node)
        if chooses or after:
            behind.update(node.outputs)
    return first, behind


def _parts(node: ir.Node) -> Iterator[ir.Node]:
    """The node and those in its branches."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()


def _vouched(choices: Iterable[ir.Node], compared: Mapping[ir.Value, Weight]) -> bool:
    """Whether every way from a weight to a choice leads through a layer that is compared."""
    ahead = [value for node in choices for part in _parts(node) for value in part.inputs]
    seen: set[ir.Value] = set()
    while ahead:
        value = ahead.pop()
        if value is None or value in seen or value in compared:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None:
            if node.op_type in WEIGHTED and _held(node) is not None:
                return False
            ahead += [each for part in _parts(node) for each in part.inputs]
    return bool(compared)


def _held(node: ir.Node) -> Weight | None:
    """The constant that a layer works with."""
    value = node.inputs[1]
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    if constant is None:
        return None
    values = constant.numpy()
    return _weight(np.ascontiguousarray(values.T) if _is_product(node) else values)


def _is_product(node: ir.Node) -> bool:
    """Whether a node multiplies by the transpose of a layer's weight, and leaves the bias to the next one."""
    return node.op_type == "MatMul"


def _written(node: ir.Node, *, biased: bool) -> ir.Value | None:
    """What the layer of this node writes; None where the sum with its bias is not found."""
    value = node.outputs[0]
    if not (_is_product(node) and biased):
        return value
    users = [use.node for use in value.uses()]
    return users[0].outputs[0] if len(users) == 1 and users[0].op_type == "Add" else None


def _weight(values: Array) -> Weight:
    return values.shape, hashlib.sha256(values.tobytes()).digest()
