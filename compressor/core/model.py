"""What a model is: its inputs, its layers, what it costs, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


KeptIndices = Mapping[str, Mapping[int, tuple[int, ...]]]
"""tensor name -> dimension -> kept indices in the ORIGINAL model's numbering; what is absent is whole."""


OptimizerState = Mapping[str, Mapping[str, "Tensor"]]
"""parameter -> what the optimizer stores for it: name -> tensor, of the parameter's shape or a single number"""


@dataclass(frozen=True, slots=True)
class Cost:
    """`params`: all parameters. `macs`: multiply-adds of convolutions and linear layers, for one input.

    `weights`: entries of these layers' weights, without biases. `nodes`: their output channels, each layer's counted by
    itself and all but those of the layer that runs last. 0 = not counted.
    """

    params: int
    macs: int
    weights: int = 0
    nodes: int = 0


ImageSize = tuple[int, int, int]
"""channels, height, width"""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One tensor that a model takes, without its batch dimension, which comes first."""

    shape: tuple[int, ...]
    dtype: str = "float32"  # as PyTorch names it
    whole: tuple[int, int] | None = None  # least and largest of whole numbers such as token ids; None for others
    name: str = "input"


def one_image(size: ImageSize) -> tuple[ModelInput, ...]:
    """What a model of pictures takes."""
    return (ModelInput(size),)


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer as it runs on one input: all that its time depends on."""

    op: str  # linear, conv1d to conv3d, conv_transpose1d to conv_transpose3d
    inputs: int  # channels
    outputs: int
    places: tuple[int, ...]  # height and width of the input of a convolution; rows of a linear layer
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def resized(self, inputs: int, outputs: int) -> Layer:
        """The same layer with other widths; in a depthwise convolution every channel stays its own group."""
        depthwise = self.groups == self.inputs > 1
        return replace(self, inputs=inputs, outputs=outputs, groups=inputs if depthwise else self.groups)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All it takes to build the original architecture again, without its weights."""

    source: str  # torchvision:resnet50 | timm:resnet26d | cifar:resnet56 | /path/net.py:factory
    inputs: tuple[ModelInput, ...]
    num_classes: int | None = None  # None = the architecture's own

    @property
    def image(self) -> ImageSize | None:
        """The size of the one picture the model takes; None for a model that takes anything else."""
        match self.inputs:
            case (ModelInput(shape=(channels, height, width), dtype="float32"),):
                return channels, height, width
        return None

    @property
    def input(self) -> ImageSize:
        """The same, for architectures known to take pictures."""
        assert self.image is not None, self.source
        return self.image


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A float32 module in eval mode on the CPU, and where it came from."""

    module: nn.Module
    spec: ModelSpec
    name: str  # as the user wrote it
    sha256: str | None = None  # of the checkpoint file
    notes: tuple[str, ...] = ()  # prefixes peeled, wrappers opened, architecture recognised
    mean: tuple[float, ...] | None = None  # normalisation the architecture's weights expect
    std: tuple[float, ...] | None = None
    kept: KeptIndices = field(default_factory=dict)  # not empty for a model that was pruned before
    original: Cost | None = None  # cost of the original, when pruned before
    untrained: bool = False  # random weights, of an architecture that was named without any
