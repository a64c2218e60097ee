"""The CIFAR ResNets of depth 6n + 2, widths 16, 32, 64 or multiples of these.

He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2.
Option A (`resnet20`): a shortcut that changes the shape is zero-padded and has no parameters.
Option B (`resnet20b`): it is a 1x1 convolution with BatchNorm.
`resnet20x2` has twice the channels in every layer (`resnet20x2b` with option B).
Tensor names are those of published checkpoints: conv1, bn1, layerS.B.{conv,bn}{1,2}, shortcut.{0,1}, linear.
"""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)
DEPTHS = (8, 14, 20, 32, 44, 56, 110)
NAMES = tuple(f"resnet{depth}{option}" for option in ("", "b") for depth in DEPTHS)
INPUT = (3, 32, 32)
CLASSES = 10
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_NAME = re.compile(r"resnet([1-9]\d{0,3})(?:x([2-9]))?(b?)")


def blocks_per_stage(name: str) -> int | None:
    """Return the n of depth 6n + 2, such as 9 for `resnet56`; None if the name is not of this family."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) < 8 or (int(match[1]) - 2) % 6:
        return None
    return (int(match[1]) - 2) // 6


def width_factor(name: str) -> int:
    """Return 2 for `resnet8x2`, 1 for `resnet8`; the name is one that `blocks_per_stage` knows."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return int(match[2] or 1)


class PaddedShortcut(nn.Module):
    """The shortcut of option A: every second pixel, with zero channels before and after.

    `padding` is an attribute read at run time, in the order of `F.pad`, because removing channels changes it.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        left = (outputs - inputs) // 2
        self.padding: tuple[int, ...] = (0, 0, 0, 0, left, outputs - inputs - left)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], self.padding)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = (
                nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
                if projected
                else PaddedShortcut(inputs, outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """(B, in_channels, H, W) with H, W >= 8 -> logits (B, num_classes)."""

    def __init__(self, blocks: int, factor: int, *, projected: bool, num_classes: int, in_channels: int) -> None:
        super().__init__()
        first, second, third = (width * factor for width in WIDTHS)
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks, 1, projected=projected)
        self.layer2 = _stage(first, second, blocks, 2, projected=projected)
        self.layer3 = _stage(second, third, blocks, 2, projected=projected)
        self.linear = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(y, 1).flatten(1))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int, *, projected: bool) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, projected=projected),
        *(BasicBlock(outputs, outputs, 1, projected=projected) for _ in range(blocks - 1)),
    )


def cifar_resnet(name: str, *, num_classes: int = CLASSES, in_channels: int = 3) -> CifarResNet:
    """Build a network with random weights.

    Args:
        name: `resnet56` (option A), `resnet56b` (option B) or `resnet56x2`; a name that `blocks_per_stage` knows.
        num_classes: Number of logits.
        in_channels: Channels of the input.

    Returns:
        The network, in training mode.
    """
    blocks = blocks_per_stage(name)
    assert blocks is not None, name
    projected = name.endswith("b")
    factor = width_factor(name)
    return CifarResNet(blocks, factor, projected=projected, num_classes=num_classes, in_channels=in_channels)
