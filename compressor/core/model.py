"""Models: their inputs, layers, normalization scales and cost, and where they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


KeptIndices = Mapping[str, Mapping[int, tuple[int, ...]]]
"""tensor name -> dimension -> kept indices in the ORIGINAL model's numbering; absent dimensions keep all"""


OptimizerState = Mapping[str, Mapping[str, "Tensor"]]
"""parameter -> what the optimizer stores for it: name -> tensor, of the parameter's shape or a single number"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs; 0 = not counted."""

    params: int  # all parameters
    macs: int  # multiply-adds for one input, see compressor.graph.arithmetic
    weights: int = 0  # entries of the weights of convolutions and linear layers, without biases
    nodes: int = 0  # output channels of these layers, summed over all but the one that runs last


ImageSize = tuple[int, int, int]
"""channels, height, width"""

BatchDims = tuple[int | None, ...]
"""Batch dimension of each input of a model; None = the input has no batch dimension."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input tensor of a model. The batch dimension is not part of the shape."""

    shape: tuple[int, ...]
    dtype: str = "float32"  # as PyTorch names it
    integer_range: tuple[int, int] | None = None  # smallest and largest value of integers such as token ids
    name: str = "input"
    batch_dim: int | None = 0  # where the batch dimension is in the tensor; None = there is none
    values: tuple[float, ...] | None = None  # of some samples, one after the other, if the model runs on no random ones

    @property
    def held_samples(self) -> int:
        """The number of samples in `values`."""
        return len(self.values or ()) // max(math.prod(self.shape), 1)


def one_image(size: ImageSize) -> tuple[ModelInput, ...]:
    """Return the inputs of a model that takes one image."""
    return (ModelInput(size),)


@dataclass(frozen=True, slots=True)
class Layer:
    """Everything that the time of a convolution or linear layer depends on, for one input."""

    op: str  # linear, conv1d to conv3d, conv_transpose1d to conv_transpose3d
    in_channels: int
    out_channels: int
    spatial_shape: tuple[int, ...]  # height and width of the input of a convolution; rows of a linear layer
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    @property
    def is_depthwise(self) -> bool:
        """Whether every input channel is a group of its own."""
        return self.groups == self.in_channels > 1

    def resized(self, inputs: int, outputs: int) -> Layer:
        """Change the widths; in a depthwise convolution every channel remains its own group.

        Args:
            inputs: Number of input channels.
            outputs: Number of output channels.

        Returns:
            The layer with these widths.
        """
        groups = inputs if self.is_depthwise else self.groups
        return replace(self, in_channels=inputs, out_channels=outputs, groups=groups)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How to build the original architecture again, without its weights."""

    source: str  # torchvision:resnet50 | timm:resnet26d | cifar:resnet56 | /path/net.py:factory
    inputs: tuple[ModelInput, ...]
    num_classes: int | None = None  # None = the architecture's own
    arguments: Mapping[str, object] = field(default_factory=dict)  # plain data: of a class, or a library's config
    outputs: tuple[int, ...] = ()  # the output tensors that are used, counted depth first; () = all

    @property
    def batch_dims(self) -> BatchDims:
        """The batch dimension of each input."""
        return tuple(model_input.batch_dim for model_input in self.inputs)

    @property
    def image(self) -> ImageSize | None:
        """The size of the one image that the model takes, or None for models with other inputs."""
        match self.inputs:
            case (ModelInput(shape=(channels, height, width), dtype="float32", batch_dim=0),):
                return channels, height, width
        return None

    @property
    def input(self) -> ImageSize:
        """The size of the one image, for architectures that are known to take one."""
        assert self.image is not None, self.source
        return self.image


@dataclass(frozen=True, slots=True)
class ConfigStep:
    """Fields of a library's configuration that change together by one step, and the sizes that change with them."""

    fields: Mapping[str, int]  # such as `vision_config.hidden_size` or `hidden_sizes[0]` -> its change
    sizes: Mapping[str, Mapping[int, int]]  # tensor -> dimension -> its change


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A float32 module in eval mode on the CPU, and where it came from."""

    module: nn.Module
    spec: ModelSpec
    name: str  # as the user wrote it
    sha256: str | None = None  # of the checkpoint file, or of the tensors of a module in memory
    notes: tuple[str, ...] = ()  # removed prefixes, opened wrappers, the recognized architecture
    mean: tuple[float, ...] | None = None  # normalization that the weights expect
    std: tuple[float, ...] | None = None
    kept: KeptIndices = field(default_factory=dict)  # channels that earlier runs kept; empty = never pruned
    dropped: tuple[str, ...] = ()  # residual blocks that were dropped
    original: Cost | None = None  # cost of the original model, if an earlier run pruned it
    config_steps: tuple[ConfigStep, ...] = ()  # the widths that a library's configuration can set
    untrained: bool = False  # random weights, because the architecture was named without weights
    guessed_sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Input -> dimensions of its shape, such as the number of token ids, that nothing says but the samples."""


def normalization_scales(parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Find the scales of normalizations: vectors called `weight` beside a `bias` of the same shape.

    Normalizations of every library store their parameters like this. No convolution, linear layer or activation does.
    """
    return tuple(name for name, tensor in parameters.items() if tensor.ndim == 1 and _has_bias(name, parameters))


def _has_bias(name: str, parameters: Mapping[str, Tensor]) -> bool:
    module, _, last = name.rpartition(".")
    bias = parameters.get(f"{module}.bias" if module else "bias")
    return last == "weight" and bias is not None and bias.shape == parameters[name].shape
