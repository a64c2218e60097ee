"""Normalizations with constant scales, and PRelu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from compressor.models.onnx_import.graph_editor import GraphEditor
from compressor.models.onnx_import.layers.base import Built, LayerKind, Operands, like_vector
from compressor.models.onnx_import.node import unsupported

BATCH: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE: dict[int, Any] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
SCALE_AND_SHIFT = ("weight", "bias")


class _Normalization(LayerKind):
    """A layer whose parameters are inputs of one node, in this order from input 1."""

    tensors: tuple[str, ...] = SCALE_AND_SHIFT

    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """
        for index in nodes:
            for position, name in enumerate(self.tensors, 1):
                tensor = getattr(module, name)
                if tensor is not None:
                    editor.set_input(index, position, tensor)


class BatchNorm(_Normalization):
    """BatchNormalization with its running statistics."""

    tensors = (*SCALE_AND_SHIFT, "running_mean", "running_var")

    def build(self, operands: Operands) -> Built | None:
        node, rank = operands.node, len(operands.shape(0))
        if node.get("training_mode") or (len([name for name in node.outputs if name]) > 1 and node.opset >= 14):
            raise unsupported(node, "it computes statistics of its batch, as in training")
        if not operands.has(1, 2, 3, 4) or rank not in BATCH:
            return None
        layer = BATCH[rank](operands.constants[1].size, eps=node.get("epsilon", 1e-5))
        layer.weight, layer.bias = operands.weight(1), operands.weight(2)
        layer.running_mean, layer.running_var = operands.buffer(3), operands.buffer(4)
        return Built(layer, node.inputs[:1], node.outputs[:1], node.inputs[1])


class LayerNorm(_Normalization):
    """LayerNormalization over the last dimensions."""

    def build(self, operands: Operands) -> Built | None:
        node, shape = operands.node, operands.shape(0)
        over = shape[node.get("axis", -1) % max(1, len(shape)) :]
        several = len([name for name in node.outputs if name]) > 1
        if several or not operands.has(1) or operands.constants[1].shape != over:
            return None
        if not operands.absent(2) and not operands.has(2):
            return None
        layer = nn.LayerNorm(over, node.get("epsilon", 1e-5), bias=not operands.absent(2))
        layer.weight = operands.weight(1)
        if not operands.absent(2):
            layer.bias = operands.weight(2)
        return Built(layer, node.inputs[:1], node.outputs[:1], node.inputs[1])


class InstanceNorm(_Normalization):
    """InstanceNormalization with constant scale and shift."""

    def build(self, operands: Operands) -> Built | None:
        node, rank = operands.node, len(operands.shape(0))
        if not operands.has(1, 2) or rank not in INSTANCE:
            return None
        layer = INSTANCE[rank](operands.constants[1].size, eps=node.get("epsilon", 1e-5), affine=True)
        layer.weight, layer.bias = operands.weight(1), operands.weight(2)
        return Built(layer, node.inputs[:1], node.outputs, node.inputs[1])


class GroupNorm(_Normalization):
    """GroupNormalization with a scale and shift for each channel, as opset 21 has it."""

    def build(self, operands: Operands) -> Built | None:
        node, channels = operands.node, operands.shape(0)[1]
        if not operands.has(1, 2) or operands.constants[1].size != channels:
            return None
        layer = nn.GroupNorm(node.get("num_groups"), channels, node.get("epsilon", 1e-5))
        layer.weight, layer.bias = operands.weight(1), operands.weight(2)
        return Built(layer, node.inputs[:1], node.outputs, node.inputs[1])


class PReLU(LayerKind):
    """A slope for each channel, or one for all."""

    def build(self, operands: Operands) -> Built | None:
        node, shape = operands.node, operands.shape(0)
        if not operands.has(1) or len(shape) < 2:
            return None
        slope = operands.constants[1]
        wanted = (shape[1], *(1,) * (len(shape) - 2))
        if slope.size != 1 and slope.shape != wanted:
            return None
        layer = nn.PReLU(slope.size)
        layer.weight = operands.weight(1, lambda array: array.reshape(-1), tag="flat")
        layer.given_shape = slope.shape  # type: ignore[assignment]
        return Built(layer, node.inputs[:1], node.outputs, node.inputs[1])

    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """
        slope, shape = module.get_parameter("weight"), tuple(module.given_shape)  # type: ignore[arg-type]
        for index in nodes:
            editor.set_input(index, 1, like_vector(slope, shape))


LAYERS: dict[str, LayerKind] = {
    "BatchNormalization": BatchNorm(),
    "LayerNormalization": LayerNorm(),
    "InstanceNormalization": InstanceNorm(),
    "GroupNormalization": GroupNorm(),
    "PRelu": PReLU(),
}
