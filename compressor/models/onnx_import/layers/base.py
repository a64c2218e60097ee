"""What every layer has: how it is built from a node and its constants, and how its weights go back into the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from compressor.models.onnx_import.graph_editor import GraphEditor
from compressor.models.onnx_import.node import Node
from compressor.models.onnx_import.values import HostArray, Value


@dataclass(slots=True)
class SharedWeights:
    """Parameters by the names of the constants that they come from, so that layers share what nodes share."""

    known: dict[tuple[str, ...], nn.Parameter] = field(default_factory=dict)

    def parameter(self, key: Sequence[str], array: HostArray) -> nn.Parameter:
        """Make a parameter, or return the one that was made of the same constants.

        Args:
            key: The names of the constants, and what was done to them.
            array: Its value.

        Returns:
            A float32 parameter.
        """
        known = self.known.get(tuple(key))
        if known is None:
            known = self.known[tuple(key)] = nn.Parameter(torch.from_numpy(np.array(array, dtype=np.float32)))
        return known


@dataclass(frozen=True, slots=True)
class Operands:
    """The inputs of a node: arrays that are constants of the file, and example values of the others."""

    node: Node
    constants: Mapping[int, HostArray]  # by position
    examples: Sequence[Value]
    shared: SharedWeights

    def has(self, *positions: int) -> bool:
        """Return whether the inputs at these positions are constants."""
        return all(position in self.constants for position in positions)

    def absent(self, position: int) -> bool:
        """Return whether the node has no input at a position."""
        return position >= len(self.node.inputs) or not self.node.inputs[position]

    def shape(self, position: int) -> tuple[int, ...]:
        """The shape of the example value at a position."""
        value = self.examples[position]
        return tuple(value.shape) if value is not None else ()

    def weight(
        self, position: int, change: Callable[[HostArray], HostArray] | None = None, *, tag: str = ""
    ) -> nn.Parameter:
        """Make the parameter of a constant.

        Args:
            position: The input.
            change: Applied to the array.
            tag: The name of the change. A matrix that several nodes use with the same change is one parameter.

        Returns:
            The parameter.
        """
        array = self.constants[position]
        key = [self.node.inputs[position], tag]
        if array.ndim < 2:
            key.append(self.node.name)  # exporters store equal vectors once, such as biases of zeros of many layers
        return self.shared.parameter(key, array if change is None else change(array))

    def buffer(self, position: int) -> Tensor:
        """Make a float32 tensor of a constant, which is not trained."""
        return torch.from_numpy(np.array(self.constants[position], dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Built:
    """A layer, and which inputs and nodes it stands for."""

    module: nn.Module
    inputs: tuple[str, ...]  # that are read at every pass
    outputs: tuple[str, ...]
    named_after: str  # the constant whose name the layer gets
    nodes: tuple[int, ...] = ()  # indices of further nodes that it replaces


class LayerKind(ABC):
    """One kind of layer."""

    @abstractmethod
    def build(self, operands: Operands) -> Built | None:
        """Build the layer of a node.

        Args:
            operands: The node and its inputs.

        Returns:
            The layer; None where its weights are no constants, so that it is an operator.

        Raises:
            ModelError: The node asks for something that the layer cannot do.
        """

    @abstractmethod
    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back into the file.

        Args:
            module: The layer, which may be smaller than it was.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """


def like_vector(vector: Tensor, shape: Sequence[int]) -> Tensor:
    """Give a vector as many dimensions as a constant had that was a vector along one of them.

    Args:
        vector: (C,).
        shape: Such as (C', 1, 1).

    Returns:
        (C, 1, 1).
    """
    sizes = [-1 if size != 1 else 1 for size in shape]
    return vector.reshape(sizes if -1 in sizes else (*sizes[:-1], -1))
