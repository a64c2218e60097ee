"""`torchvision:NAME[@WEIGHTS]`: classification, segmentation and detection of torchvision."""

from __future__ import annotations

from contextlib import nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compressor.core import ImageSize, ModelSpec
from compressor.errors import ModelError
from compressor.models.families.base import (
    Defaults,
    NamedFamily,
    PublishedWeights,
    call_builder,
    download,
    unknown_weights,
)

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_RESCALES_INPUT = ("googlenet", "inception_v3")  # published weights re-normalize ImageNet's statistics to one half

Statistics = tuple[float, ...]


class Torchvision(NamedFamily):
    """The architectures of the installed torchvision that take one image."""

    prefix = "torchvision"
    rank = 2
    library = "torchvision"

    def names(self) -> list[str]:
        from torchvision import models

        modules = (models, models.segmentation, models.detection)
        return [name for module in modules for name in models.list_models(module=module)]

    def defaults(self, name: str) -> Defaults:
        from torchvision import models

        weights = models.get_model_weights(name).DEFAULT
        preset = weights.transforms()
        crop = getattr(preset, "crop_size", [224])[0]
        size = 224 if name.startswith("vit_") else crop  # some published ViTs are larger than what the builder builds
        return Defaults((3, size, size), len(weights.meta["categories"]), *_normalization(preset, name))

    def build(self, spec: ModelSpec, name: str) -> nn.Module:
        """Build the network without auxiliary heads, as `Family.build` does.

        Args:
            spec: Its source, classes and input.
            name: Its name in the family.

        Returns:
            The module.

        Raises:
            ModelError: It cannot be built with these sizes.
        """
        from torchvision import models

        settings: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
        channels, *size = spec.input
        detects = name in models.list_models(module=models.detection)
        if name in _RESCALES_INPUT:
            settings |= {"aux_logits": False, "init_weights": True}
        elif name in models.list_models(module=models.segmentation):
            settings |= {"aux_loss": False, "weights_backbone": None}
        elif detects:
            settings |= {"weights_backbone": None}
        elif size != [224, 224] and name.startswith("vit_"):
            settings |= {"image_size": _square(spec, size)}
        elif size != [224, 224] and name.startswith("maxvit"):
            settings |= {"input_size": tuple(size)}
        with _WidthsOnCpu() if name.startswith("regnet") else nullcontext():
            module: nn.Module = call_builder(spec.source, models.get_model_builder(name), weights=None, **settings)
        if channels != 3 and detects:
            raise ModelError(
                "model/unsupported-channels",
                spec.source,
                f"{channels} input channels are set, but torchvision's detectors take 3",
                "set model.input to [3, height, width]",
            )
        if channels != 3:
            _replace_stem(module, channels)
        return module

    def published_weights(self, spec: ModelSpec, name: str, tag: str, size: ImageSize | None) -> PublishedWeights:
        """Download weights of torchvision.

        Args:
            spec: The architecture.
            name: Its name in the family.
            tag: A name such as `IMAGENET1K_V1`.
            size: The input size that the user sets; None takes the crop of these weights.

        Returns:
            The weights.

        Raises:
            ModelError: There are no such weights, or the download failed.
        """
        from torchvision import models

        known = models.get_model_weights(name)
        if tag not in known.__members__:
            close = get_close_matches(tag, known.__members__, n=1, cutoff=0.3)
            hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known.__members__)}"
            raise unknown_weights(spec, tag, hint)
        weights = known[tag]
        preset = weights.transforms()
        crop = getattr(preset, "crop_size", [spec.input[1]])[0]
        source = f"{spec.source}@{tag}"
        state = download(source, lambda: weights.get_state_dict(progress=False, check_hash=True))
        return PublishedWeights(state, size or (3, crop, crop), spec.num_classes, *_normalization(preset, name))


def _normalization(preset: object, name: str) -> tuple[Statistics, Statistics]:
    """Return mean and standard deviation."""
    if name in _RESCALES_INPUT:
        return _HALF, _HALF
    return tuple(getattr(preset, "mean", _IMAGENET_MEAN)), tuple(getattr(preset, "std", _IMAGENET_STD))


def _square(spec: ModelSpec, size: list[int]) -> int:
    if size[0] != size[1]:
        raise ModelError(
            "model/input-not-square",
            spec.source,
            f"an input of {size[0]}x{size[1]} is set, but it takes square images",
            "set equal height and width in model.input",
        )
    return size[0]


def _replace_stem(module: nn.Module, channels: int) -> None:
    """Replace the first convolution by one with other input channels."""
    for name, old in module.named_modules():
        if isinstance(old, nn.Conv2d) and old.in_channels == 3:
            new = nn.Conv2d(
                channels,
                old.out_channels,
                old.kernel_size,  # type: ignore[arg-type]  # torch types the attribute wider than the parameter
                stride=old.stride,  # type: ignore[arg-type]
                padding=old.padding,  # type: ignore[arg-type]
                dilation=old.dilation,  # type: ignore[arg-type]
                bias=old.bias is not None,
            )
            module.set_submodule(name, new)
            return
    raise AssertionError("every torchvision network starts with a convolution of 3 channels")


class _WidthsOnCpu(TorchFunctionMode):
    """RegNet's builder computes its widths with small tensors and reads them back, which the meta device can't."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_cpu = func in (torch.arange, torch.tensor) and "device" not in kwargs  # layers do pass theirs
        return func(*args, **kwargs | ({"device": "cpu"} if on_cpu else {}))


FAMILY = Torchvision()
