"""`cifar:NAME`: the CIFAR ResNets, and the two that ship with the package, trained on digits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import nn

from compressor.core import ImageSize, ModelSpec, one_image
from compressor.models import cifar
from compressor.models.checkpoints.checkpoint import read_checkpoint
from compressor.models.families.base import Defaults, NamedFamily, PublishedWeights, unknown_weights

DIGITS = {
    "cifar:resnet8x2": Path(__file__).parents[1] / "resnet8x2-digits.safetensors",
    "cifar:resnet8": Path(__file__).parents[1] / "resnet8-digits.safetensors",
}
"""The included weights, by their source."""


class CifarResNets(NamedFamily):
    """Any depth 6n + 2, with shortcuts of option A or B, and widths of 16, 32, 64 times 1 to 9."""

    prefix = "cifar"
    rank = 1

    def names(self) -> list[str]:
        return list(cifar.NAMES)

    def has(self, name: str) -> bool:
        return cifar.blocks_per_stage(name) is not None

    def defaults(self, name: str) -> Defaults:
        return Defaults(cifar.INPUT, cifar.CLASSES, cifar.MEAN, cifar.STD)

    def build(self, spec: ModelSpec, name: str) -> nn.Module:
        """Build the network, as `Family.build` does.

        Args:
            spec: Its source, classes and input.
            name: Its name in the family.

        Returns:
            The module.
        """
        classes = cifar.CLASSES if spec.num_classes is None else spec.num_classes
        return cifar.cifar_resnet(name, num_classes=classes, in_channels=spec.input[0])

    def published_weights(self, spec: ModelSpec, name: str, tag: str, size: ImageSize | None) -> PublishedWeights:
        """Read a network trained on scikit-learn's digits, the only weights that are included.

        Args:
            spec: The architecture.
            name: Its name in the family.
            tag: The name of the weights.
            size: Unused: the file has the input size.

        Returns:
            The weights.

        Raises:
            ModelError: There are no such weights.
        """
        if spec.source not in DIGITS or tag != "digits":
            hint = f"give {' or '.join(f'{source}@digits' for source in DIGITS)}, the only weights that are included"
            raise unknown_weights(spec, tag, hint)
        path = DIGITS[spec.source]
        with safe_open(path, framework="pt") as file:
            header = {
                key: json.loads(value) for key, value in file.metadata().items() if key in ("input", "mean", "std")
            }
        checkpoint = read_checkpoint(path)
        channels, height, width = header["input"]
        mean, std = tuple(header["mean"]), tuple(header["std"])
        return PublishedWeights(checkpoint.tensors, (channels, height, width), None, mean, std, checkpoint.sha256)

    def specs_from_shapes(self, shapes: Mapping[str, tuple[int, ...]], size: ImageSize | None) -> list[ModelSpec]:
        """Read the depth off the number of blocks, the widths off the first, and option B off a shortcut's convolution.

        Args:
            shapes: The shapes of a state dict.
            size: Channels, height and width of the input; None takes the architecture's own.

        Returns:
            One candidate at most.
        """
        blocks = {name.split(".")[1] for name in shapes if name.startswith("layer1.")}
        if "linear.weight" not in shapes or "conv1.weight" not in shapes or not blocks:
            return []
        channels, classes = shapes["conv1.weight"][1:2], shapes["linear.weight"][0]
        factor = max(1, min(9, shapes["conv1.weight"][0] // cifar.WIDTHS[0]))
        width = f"x{factor}" if factor > 1 else ""
        name = f"resnet{6 * len(blocks) + 2}{width}{'b' * any('.shortcut.0.' in tensor for tensor in shapes)}"
        if not channels or not self.has(name):
            return []
        return [ModelSpec(f"cifar:{name}", one_image(size or (channels[0], *cifar.INPUT[1:])), classes)]


FAMILY = CifarResNets()
