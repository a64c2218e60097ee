"""Architectures with other class counts and input channels than their own, and errors for what does not exist."""

import re

import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.core import ModelSpec, one_image
from compressor.errors import ModelError
from compressor.models.build import build_named, model_defaults

UNKNOWN = "model/unknown-architecture"


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("torchvision:resnet18", (1, 64, 64)),
        ("torchvision:googlenet", (1, 64, 64)),
        ("torchvision:inception_v3", (1, 96, 96)),
        ("torchvision:mnasnet0_5", (5, 64, 64)),
        ("torchvision:swin_t", (4, 64, 64)),
        ("timm:mobilenetv3_small_050", (1, 64, 64)),
        ("timm:vit_tiny_patch16_224", (1, 64, 64)),
        ("cifar:resnet14b", (1, 8, 8)),
    ],
)
def test_sizes(source: str, size: tuple[int, int, int]) -> None:
    module = build_named(ModelSpec(source, one_image(size), 7))
    assert not module.training
    with torch.no_grad():
        assert module(torch.zeros(2, *size)).shape == (2, 7)


@pytest.mark.parametrize(
    "source",
    [
        "torchvision:regnet_y_400mf",
        "torchvision:vit_b_32",
        "torchvision:deeplabv3_resnet50",
        "timm:resnet50",
        "cifar:resnet20",
    ],
)
def test_meta_device_agrees(source: str) -> None:
    """Names and shapes without memory are those with memory, also where a builder computes its widths."""
    size = (3, 64, 64)
    with torch.device("meta"):
        light = build_named(ModelSpec(source, one_image(size), 10)).state_dict()
    assert all(tensor.is_meta for tensor in light.values())
    heavy = build_named(ModelSpec(source, one_image(size), 10)).state_dict()
    assert {name: t.shape for name, t in light.items()} == {name: t.shape for name, t in heavy.items()}


def test_own_class_count() -> None:
    with torch.device("meta"):
        module = build_named(ModelSpec("torchvision:resnet18", one_image((3, 224, 224))))
    assert isinstance(module.fc, nn.Linear)
    assert module.fc.out_features == 1000


@pytest.mark.parametrize(
    ("source", "size", "code", "word"),
    [
        ("torchvision:resnet49", (3, 32, 32), UNKNOWN, re.compile("did you mean torchvision:resnet")),
        ("timm:mobilenetv3_smal_100", (3, 32, 32), UNKNOWN, "timm:mobilenetv3_small_100"),
        ("timm:resnet50.no_such_tag", (3, 32, 32), "model/not-buildable", "no_such_tag"),
        ("cifar:resnet57", (3, 32, 32), UNKNOWN, "cifar:resnet56"),
        ("resnet56", (3, 32, 32), UNKNOWN, "cifar:resnet56"),
        ("pytorch:resnet50", (3, 32, 32), UNKNOWN, "torchvision:resnet50 or timm:resnet50"),
        ("torchvision:vit_b_16", (3, 224, 192), "model/input-not-square", "224x192"),
        ("torchvision:ssd300_vgg16", (1, 300, 300), "model/unsupported-channels", "1 input channels"),
        ("pickle:/x.pt", (3, 32, 32), "model/whole-pickled-module", "/x.pt"),
    ],
)
def test_impossible(source: str, size: tuple[int, int, int], code: str, word: str) -> None:
    with raises_error(ModelError, code, word), torch.device("meta"):
        build_named(ModelSpec(source, one_image(size)))


@pytest.mark.parametrize(
    ("source", "size", "mean"),
    [
        ("torchvision:resnet50", (3, 224, 224), 0.485),
        ("torchvision:inception_v3", (3, 299, 299), 0.5),
        ("torchvision:vit_h_14", (3, 224, 224), 0.485),
        ("timm:vit_base_patch16_224", (3, 224, 224), 0.5),
        ("cifar:resnet20", (3, 32, 32), 0.485),
    ],
)
def test_defaults(source: str, size: tuple[int, int, int], mean: float) -> None:
    assert model_defaults(source).input == size
    assert model_defaults(source).mean[0] == mean
