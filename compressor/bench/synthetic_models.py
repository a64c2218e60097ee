"""Small ONNX models that are made to be timed: a single layer, and a residual block of any width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compressor.core import Layer

IMAGE_CHANNELS = 4  # up to which a layer's input is an image, which the runtime keeps in its plain memory layout
OPSET, IR_VERSION = 17, 8
INPUT = "synthetic input"  # a job may hold samples for the inputs of another model, which have other names
BLOCKS = {"bottleneck": (256, 14, (1, 3, 1)), "basic": (64, 28, (3, 3))}  # outer channels, height, kernels


@dataclass(frozen=True, slots=True)
class LayerBenchmark:
    """A model with one layer between two operators, or with these two alone if `layer` is None."""

    channels: int
    places: tuple[int, ...]
    batch: int
    layer: Layer | None = None


def layer_model(benchmark: LayerBenchmark) -> ModelProto:
    """Input (batch, 1, *places) -> 1x1 convolution to `channels` -> the layer -> mean over places.

    Because of its two neighbours the layer gets the runtime's own memory layout, as in a network, and no conversion of
    layouts is timed. An image (batch, channels, *places) goes to the layer directly. A linear layer has no neighbours:
    (batch, rows, inputs) -> (batch * rows, outputs).
    """
    layer, places = benchmark.layer, benchmark.places
    weights: list[TensorProto] = []
    if layer is not None and layer.op == "linear":
        input_shape = [benchmark.batch, *layer.spatial_shape, layer.in_channels]
        return _model(
            _linear(layer, weights),
            input_shape,
            [benchmark.batch * layer.spatial_shape[0], layer.out_channels],
            weights,
        )
    is_image = layer is not None and layer.in_channels <= IMAGE_CHANNELS
    nodes, last = [], INPUT
    if not is_image:
        nodes.append(_convolution("before", last, (benchmark.channels, 1, *(1,) * len(places)), weights))
        last = "before"
    if layer is not None:
        nodes.append(_layer_node(layer, last, weights))
        last = "layer"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["output"]))
    input_shape = [benchmark.batch, benchmark.channels if is_image else 1, *places]
    output_shape = [benchmark.batch, layer.out_channels if layer else benchmark.channels, *(1,) * len(places)]
    return _model(nodes, input_shape, output_shape, weights)


def residual_block(kind: str, width: int) -> ModelProto:
    """A residual block as pruning leaves it: convolutions with bias, ReLUs and the sum.

    Args:
        kind: A key of `BLOCKS`.
        width: Number of channels inside the block.

    Returns:
        The model, for inputs (1, outer channels, height, height).
    """
    channels, height, kernels = BLOCKS[kind]
    widths = [channels, *[width] * (len(kernels) - 1), channels]
    weights: list[TensorProto] = []
    nodes, last = [], INPUT
    for index, kernel in enumerate(kernels):
        shape = (widths[index + 1], widths[index], kernel, kernel)
        nodes.append(_convolution(f"conv{index}", last, shape, weights, bias=True, pads=[kernel // 2] * 4))
        last = f"conv{index}"
        if index < len(kernels) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"relu{index}"]))
            last = f"relu{index}"
    nodes += [helper.make_node("Add", [last, INPUT], ["sum"]), helper.make_node("Relu", ["sum"], ["output"])]
    ends = [1, channels, height, height]
    return _model(nodes, ends, ends, weights)


def _linear(layer: Layer, weights: list[TensorProto]) -> list[NodeProto]:
    weights += [_tensor("weight", (layer.out_channels, layer.in_channels)), _tensor("bias", (layer.out_channels,))]
    weights.append(numpy_helper.from_array(np.array([-1, layer.in_channels], np.int64), "rows"))
    return [
        helper.make_node("Reshape", [INPUT, "rows"], ["matrix"]),
        helper.make_node("Gemm", ["matrix", "weight", "bias"], ["output"], transB=1),
    ]


def _layer_node(layer: Layer, source: str, weights: list[TensorProto]) -> NodeProto:
    transposed = "transpose" in layer.op
    first, second = (layer.in_channels, layer.out_channels) if transposed else (layer.out_channels, layer.in_channels)
    return _convolution(
        "layer",
        source,
        (first, second // layer.groups, *layer.kernel),
        weights,
        transposed=transposed,
        group=layer.groups,
        strides=list(layer.stride),
        pads=[*layer.padding, *layer.padding],
        dilations=list(layer.dilation),
    )


def _convolution(
    name: str,
    source: str,
    shape: tuple[int, ...],
    weights: list[TensorProto],
    *,
    transposed: bool = False,
    bias: bool = False,
    **attributes: Any,
) -> NodeProto:
    """A node whose output has its own name; its weight, and bias of zeros, are added to `weights`."""
    weights.append(_tensor(f"{name}.weight", shape))
    inputs = [source, f"{name}.weight"]
    if bias:
        weights.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.bias"))
        inputs.append(f"{name}.bias")
    return helper.make_node("ConvTranspose" if transposed else "Conv", inputs, [name], **attributes)


def _tensor(name: str, shape: tuple[int, ...]) -> TensorProto:
    """Seeded normal values / sqrt(fan-in): activations stay near one, because denormals and zeros take other times."""
    fan_in = max(1, math.prod(shape[1:]))
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32) / np.float32(math.sqrt(fan_in))
    return numpy_helper.from_array(values, name)


def _model(
    nodes: Sequence[NodeProto], input_shape: list[int], output_shape: list[int], weights: list[TensorProto]
) -> ModelProto:
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, input_shape)]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)]
    graph = helper.make_graph(nodes, "synthetic", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
