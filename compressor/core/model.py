"""Models: their inputs, layers and cost, and where they came from."""

from __future__ import annotations

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
    """`params`: all parameters. `macs`: multiply-adds for one input, of layers and of products of two activations; see
    `compressor.graph.arithmetic`.

    `weights`: entries of the weights of convolutions and linear layers, without biases. `nodes`: their output channels,
    summed over all layers except the one that runs last. 0 = not counted.
    """

    params: int
    macs: int
    weights: int = 0
    nodes: int = 0


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


def one_image(size: ImageSize) -> tuple[ModelInput, ...]:
    """The inputs of a model that takes one image."""
    return (ModelInput(size),)


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer as it runs on one input: everything that its time depends on."""

    op: str  # linear, conv1d to conv3d, conv_transpose1d to conv_transpose3d
    in_channels: int
    out_channels: int
    spatial_shape: tuple[int, ...]  # height and width of the input of a convolution; rows of a linear layer
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def resized(self, inputs: int, outputs: int) -> Layer:
        """Change the widths; in a depthwise convolution every channel remains its own group.

        Args:
            inputs: Number of input channels.
            outputs: Number of output channels.

        Returns:
            The layer with these widths.
        """
        depthwise = self.groups == self.in_channels > 1
        return replace(self, in_channels=inputs, out_channels=outputs, groups=inputs if depthwise else self.groups)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that is needed to build the original architecture again, without its weights."""

    source: str  # torchvision:resnet50 | timm:resnet26d | cifar:resnet56 | /path/net.py:factory
    inputs: tuple[ModelInput, ...]
    num_classes: int | None = None  # None = the architecture's own
    arguments: Mapping[str, object] = field(default_factory=dict)  # a class of the user is built with; plain data

    @property
    def batch_dims(self) -> BatchDims:
        """The batch dimension of each input."""
        return tuple(model_input.batch_dim for model_input in self.inputs)

    @property
    def image(self) -> ImageSize | None:
        """The size of the one image that the model takes; None for models with other inputs."""
        match self.inputs:
            case (ModelInput(shape=(channels, height, width), dtype="float32", batch_dim=0),):
                return channels, height, width
        return None

    @property
    def input(self) -> ImageSize:
        """The size of the image, for architectures that are known to take one."""
        assert self.image is not None, self.source
        return self.image


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A float32 module in eval mode on the CPU, and where it came from."""

    module: nn.Module
    spec: ModelSpec
    name: str  # as the user wrote it
    sha256: str | None = None  # of the checkpoint file
    notes: tuple[str, ...] = ()  # removed prefixes, opened wrappers, the recognised architecture
    mean: tuple[float, ...] | None = None  # normalisation that the weights expect
    std: tuple[float, ...] | None = None
    kept: KeptIndices = field(default_factory=dict)  # by an earlier run; empty for a model that was not pruned
    original: Cost | None = None  # cost of the original model, where an earlier run pruned it
    untrained: bool = False  # random weights, because the architecture was named without weights
