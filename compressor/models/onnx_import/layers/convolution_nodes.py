"""Conv and ConvTranspose as PyTorch's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from compressor.models.onnx_import.graph_editor import GraphEditor
from compressor.models.onnx_import.layers.base import Built, LayerKind, Operands
from compressor.models.onnx_import.node import Node, unsupported
from compressor.models.onnx_import.operators.spatial import as_pad, padding_of

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class _Padded(nn.Module):
    """Pads before the convolution: unequal sides, or as much as the input's size needs."""

    node: Node

    def forward(self, x: Tensor) -> Tensor:
        begins, ends = padding_of(self.node, x.shape[2:], self.kernel_size)  # type: ignore[arg-type]
        return super().forward(functional.pad(x, as_pad(begins, ends)))  # type: ignore[no-any-return]


class PaddedConv1d(_Padded, nn.Conv1d):
    """A Conv1d that pads by itself."""


class PaddedConv2d(_Padded, nn.Conv2d):
    """A Conv2d that pads by itself."""


class PaddedConv3d(_Padded, nn.Conv3d):
    """A Conv3d that pads by itself."""


PADDED: dict[int, Any] = {1: PaddedConv1d, 2: PaddedConv2d, 3: PaddedConv3d}


class Convolution(LayerKind):
    """A convolution with constant weights."""

    def build(self, operands: Operands) -> Built | None:
        node = operands.node
        if not operands.has(1) or not (operands.absent(2) or operands.has(2)):
            return None
        weight = operands.weight(1)
        count, groups = weight.ndim - 2, node.get("group", 1)
        if count not in CONVOLUTIONS:
            raise unsupported(node, f"it has {count} dimensions of positions")
        kernel, x_shape = tuple(weight.shape[2:]), operands.shape(0)
        if len(x_shape) != weight.ndim or x_shape[1] != weight.shape[1] * groups:
            raise unsupported(node, f"its weight {tuple(weight.shape)} does not fit its input {x_shape}")
        begins, ends = padding_of(node, x_shape[2:], kernel)
        own = begins != ends or node.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
        settings = {
            "stride": node.get("strides", (1,) * count),
            "padding": (0,) * count if own else tuple(begins),
            "dilation": node.get("dilations", (1,) * count),
            "groups": groups,
        }
        layer = (PADDED if own else CONVOLUTIONS)[count](
            weight.shape[1] * groups, weight.shape[0], kernel, bias=not operands.absent(2), device="meta", **settings
        )
        if own:
            layer.node = node
        layer.weight = weight
        layer.bias = None if operands.absent(2) else operands.weight(2)
        return Built(layer, node.inputs[:1], node.outputs, node.inputs[1])

    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """
        for index in nodes:
            editor.set_input(index, 1, module.get_parameter("weight"))
            if module.bias is not None:
                editor.set_input(index, 2, module.get_parameter("bias"))
            if any(one.name == "group" for one in editor.node(index).attribute):
                editor.set_attribute(index, "group", module.groups)


class TransposedConvolution(Convolution):
    """A transposed convolution with constant weights, which are written back as those of a convolution."""

    def build(self, operands: Operands) -> Built | None:
        node = operands.node
        if not operands.has(1) or not (operands.absent(2) or operands.has(2)):
            return None
        weight = operands.weight(1)
        count, groups = weight.ndim - 2, node.get("group", 1)
        kernel, strides = tuple(weight.shape[2:]), node.get("strides", (1,) * count)
        dilations, extra = node.get("dilations", (1,) * count), node.get("output_padding", (0,) * count)
        pads = node.get("pads", (0,) * (2 * count))
        begins, ends = list(pads[:count]), list(pads[count:])
        if node.get("output_shape") or node.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
            begins, ends = _implied(node, operands.shape(0)[2:], kernel, strides, dilations, extra)
        # a side that is cut off more at its end is the same as a negative output padding
        spare = [end - begin for begin, end in zip(begins, ends, strict=True)]
        output_padding = tuple(add - less for add, less in zip(extra, spare, strict=True))
        if any(add < 0 for add in output_padding) or count not in TRANSPOSED:
            raise unsupported(node, f"its padding {pads} has no counterpart in PyTorch")
        layer = TRANSPOSED[count](
            weight.shape[0], weight.shape[1] * groups, kernel, strides, tuple(begins), output_padding, groups,
            not operands.absent(2), dilations, device="meta",
        )  # fmt: skip
        layer.weight = weight
        layer.bias = None if operands.absent(2) else operands.weight(2)
        return Built(layer, node.inputs[:1], node.outputs, node.inputs[1])


def _implied(
    node: Node,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Padding that follows from the size of the output."""
    wanted = node.get("output_shape") or [size * stride for size, stride in zip(sizes, strides, strict=True)]
    total = [
        stride * (size - 1) + add + (window - 1) * dilation + 1 - out
        for size, stride, window, dilation, add, out in zip(
            sizes, strides, kernel, dilations, extra, wanted[-len(sizes) :], strict=True
        )
    ]
    less, more = [pad // 2 for pad in total], [pad - pad // 2 for pad in total]
    return (less, more) if node.get("auto_pad") == "SAME_UPPER" else (more, less)


LAYERS: dict[str, LayerKind] = {"Conv": Convolution(), "ConvTranspose": TransposedConvolution()}
