"""The module of an imported file: it runs the nodes one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.file_module import FileModule
from compressor.layers import note_failed_place
from compressor.models.onnx_import.alike_places import alike_places
from compressor.models.onnx_import.host import evaluate_on_host
from compressor.models.onnx_import.if_nodes import Branches
from compressor.models.onnx_import.node import Node, SharedByCopies
from compressor.models.onnx_import.values import HostArray, Value, as_tensor, is_host

AS_COMPUTED = -2
"""An entry of `output_sizes` that the graph computes when it runs."""

Function = Callable[..., Any]
"""(operator node, *inputs) -> output, or a tuple of outputs"""


@dataclass(frozen=True, slots=True)
class Integers(SharedByCopies):
    """Sizes and bounds that a file fixes."""

    output_sizes: tuple[int, ...] | None = None
    begin: int | None = None
    end: int | None = None
    padding: tuple[int, ...] | None = None


class OperatorNode(nn.Module):
    """A node without weights.

    Integers that the file fixes and that follow the widths after surgery are attributes: `output_sizes`, the sizes of
    the result of a Reshape or Expand or of the parts of a Split; `begin` and `end` of a Slice along one axis; `padding`
    of a Pad with a constant, in the order of `torch.nn.functional.pad`. `given` holds what the file has.
    """

    def __init__(self, node: Node, function: Function | None, place: str, fixed: Mapping[int, HostArray]) -> None:
        super().__init__()
        self.node, self.function, self.source_place = node, function, place
        self.fixed = dict(fixed)  # position -> constant of the file
        self.output_sizes: tuple[int, ...] | None = None
        self.begin: int | None = None
        self.end: int | None = None
        self.padding: tuple[int, ...] | None = None
        self.given: Integers = Integers()

    @property
    def integers(self) -> Integers:
        """The sizes and bounds that the node has now."""
        return Integers(self.output_sizes, self.begin, self.end, self.padding)

    def forward(self, *values: Value) -> Any:
        inputs = [self.fixed.get(at, value) for at, value in enumerate(values)]
        if self.output_sizes is not None and len(inputs) > 1:
            inputs[1] = self._sizes(inputs[1])
        arrays = [value for value in inputs if not isinstance(value, Tensor)]
        if self.function is None or len(arrays) == len(inputs):
            return evaluate_on_host(self.node, arrays)
        return self.function(self, *inputs)

    def _sizes(self, given: Value) -> HostArray:
        """The sizes of the result: those of the file, and those that the graph computes."""
        assert self.output_sizes is not None, "forward asks for them where they are stored"
        stored = np.asarray(self.output_sizes, dtype=np.int64)
        return (
            np.where(stored == AS_COMPUTED, given, stored) if is_host(given) and given.shape == stored.shape else stored
        )


@dataclass(frozen=True, slots=True)
class NodeCall(SharedByCopies):
    """One call of a submodule, by the names of the values that it reads and makes."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    place: str
    last_use: tuple[str, ...] = ()  # values that no later step reads


@dataclass(frozen=True, slots=True)
class JoinedSlice(SharedByCopies):
    """A Slice of the file that runs as part of a split into equal parts; `fixed`: its bounds are constants."""

    node: int
    name: str
    output: str
    axis: int
    part: int
    opset: int
    fixed: bool


@dataclass(frozen=True, slots=True)
class WrittenLayer(SharedByCopies):
    """What a layer is written back as: the kind of layer, and the nodes of the file that it stands for."""

    kind: str
    nodes: tuple[int, ...]


class ImportedModule(FileModule):
    """Runs steps in the order of the file. Layers have the names of the file's weights."""

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str], file: str) -> None:
        super().__init__()
        self.inputs, self.outputs, self.file = tuple(inputs), tuple(outputs), file
        self.steps: tuple[NodeCall, ...] = ()
        self.tensors: dict[str, str] = {}  # value of the file -> parameter or buffer
        self.constants: dict[str, HostArray] = {}  # outputs that depend on no input
        self.written: dict[str, WrittenLayer] = {}  # by path of the layer
        self.operators_written: list[tuple[str, int]] = []  # operator, node of the file
        self.joined: list[JoinedSlice] = []
        self.branches: Branches = ()  # of the file's Ifs, which the indices of nodes count
        self.batch_dims = (0,) * len(self.inputs)

    def forward(self, *inputs: Tensor) -> Any:
        pairs = list(zip(inputs, self.batch_dims, strict=True))
        count = next((len(tensor) for tensor, dim in pairs if dim is not None), 1)
        if self.samples_apart and count > 1:
            split = [[tensor] * count if dim is None else list(torch.split(tensor, 1)) for tensor, dim in pairs]
            samples = [self._run(*sample) for sample in zip(*split, strict=True)]
            results = [torch.cat(parts) for parts in zip(*samples, strict=True)]
        else:
            results = self._run(*inputs)
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, *inputs: Tensor) -> list[Tensor]:
        values = self._before(inputs)
        for step in self.steps:
            self._execute(step, values)
            for name in step.last_use:
                values.pop(name, None)
        return [as_tensor(values[name], inputs[0]) for name in self.outputs]

    def intermediate(self, *inputs: Tensor) -> Iterator[tuple[NodeCall, dict[str, Value]]]:
        """Run, and yield each step with the values that it has made.

        Args:
            inputs: The inputs.

        Yields:
            The step, and its results by name.
        """
        values = self._before(inputs)
        for step in self.steps:
            self._execute(step, values)
            yield step, {name: values[name] for name in step.outputs if name in values}

    def _before(self, inputs: Sequence[Tensor]) -> dict[str, Value]:
        values: dict[str, Value] = dict(zip(self.inputs, self.arranged_for_file(inputs), strict=True))
        values |= self.constants
        return values | {name: self.tensor(path) for name, path in self.tensors.items()}

    def _execute(self, step: NodeCall, values: dict[str, Value]) -> None:
        try:
            results = self.get_submodule(step.module)(*(values[name] if name else None for name in step.inputs))
        except Exception as error:  # whatever an operator raises for the sizes it is given
            note_failed_place(error, step.place)
            raise
        results = results if isinstance(results, tuple | list) else (results,)
        values.update(zip(step.outputs, results, strict=False))

    def tensor(self, path: str) -> Tensor:
        """Return a parameter or buffer by its path."""
        owner, _, name = path.rpartition(".")
        value: Tensor = getattr(self.get_submodule(owner), name)
        return value

    def places_before(self, place: str) -> Iterator[set[str]]:
        """Yield the place of a step, then those of the steps that make its inputs, then of those before, and so on."""
        makers = {name: step for step in self.steps for name in step.outputs}
        level = [step for step in self.steps if step.place == place]
        seen = {step.place for step in level}
        while level:
            yield {step.place for step in level}
            before = [makers[name] for step in level for name in step.inputs if name in makers]
            level = [step for step in dict.fromkeys(before) if step.place not in seen]
            seen |= {step.place for step in level}

    def places_alike(self, places: set[str]) -> set[str]:
        """Return the places of the same nodes in repeated blocks, the given ones among them."""
        modules = {step.module: self.get_submodule(step.module) for step in self.steps}
        operators = {
            name: module.node.kind if isinstance(module, OperatorNode) else type(module).__name__
            for name, module in modules.items()
        }
        alike = alike_places(self.steps, operators)
        return places.union(*(alike.get(place, ()) for place in places))


def place_module(root: nn.Module, path: str, module: nn.Module) -> str:
    """Add a submodule under a dotted path, with empty modules on the way.

    Args:
        root: Where the path begins.
        path: The path; a number is appended to parts of it that are taken.
        module: The submodule.

    Returns:
        The path under which it is registered.
    """
    parent, path = _parent(root, path)
    parent.add_module(path.rpartition(".")[2], module)
    return path


def add_tensor(root: nn.Module, path: str, tensor: Tensor) -> str:
    """Add a parameter or buffer under a dotted path, with empty modules on the way.

    Args:
        root: Where the path begins.
        path: The path; a number is appended to parts of it that are taken.
        tensor: A parameter, or a tensor that becomes a buffer.

    Returns:
        The path under which it is registered.
    """
    parent, path = _parent(root, path)
    name = path.rpartition(".")[2]
    if isinstance(tensor, nn.Parameter):
        parent.register_parameter(name, tensor)
    else:
        parent.register_buffer(name, tensor)
    return path


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Find or make the module that holds the last part of a path; return it and the whole path, with free names."""
    *parts, last = path.split(".")
    taken = []
    for part in parts:
        inner = getattr(root, part, None)
        if not isinstance(inner, nn.Module):
            part = _free(root, part)
            inner = nn.Module()
            root.add_module(part, inner)
        taken.append(part)
        root = inner
    return root, ".".join((*taken, _free(root, last)))


def _free(module: nn.Module, name: str) -> str:
    candidates = (name if index == 0 else f"{name}_{index}" for index in range(10**6))
    return next(candidate for candidate in candidates if not hasattr(module, candidate))
