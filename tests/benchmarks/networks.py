"""ResNet-18 and VGG-16 for images of 32 x 32, most of them a quarter as wide as in the literature: what a processor can
train."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers


def whole_resnet18() -> nn.Module:
    """64 to 512 channels, 11 M weights."""
    return resnet18(64)


def resnet18(narrowest: int = 16) -> nn.Module:
    """So many to eight times as many channels behind one 3 x 3 convolution, without pooling there."""
    stem = nn.Conv2d(3, narrowest, 3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(narrowest), nn.ReLU()]
    inputs = narrowest
    for width, stride in ((narrowest, 1), (2 * narrowest, 2), (4 * narrowest, 2), (8 * narrowest, 2)):
        short = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        layers += [BasicBlock(inputs, width, stride, short if stride > 1 else None), BasicBlock(width, width)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def vgg16() -> nn.Module:
    """13 convolutions of 16 to 128 channels, each with BatchNorm, and two linear layers."""
    layers: list[int | str] = []
    for width, count in ((16, 2), (32, 2), (64, 3), (128, 3), (128, 3)):
        layers += [*[width] * count, "M"]
    return nn.Sequential(
        make_layers(layers, batch_norm=True), nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
