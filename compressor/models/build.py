"""Architectures by name, with any number of classes and input channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compressor.core import ModelSpec
from compressor.errors import CompressorError, ModelError
from compressor.models import cifar, user_code
from compressor.models.prepare import prepare_module

SEED = 0
Family = Literal["torchvision", "timm", "cifar", "code"]
FAMILIES: tuple[Family, ...] = ("cifar", "torchvision", "timm")  # in the order that settles ties between equals

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
RESCALES_INPUT = ("googlenet", "inception_v3")  # published weights re-normalise ImageNet's statistics to one half


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an architecture expects when nobody says otherwise."""

    input: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def split_name(source: str) -> tuple[Family, str]:
    """`timm:resnet26d` -> (timm, resnet26d). Raises ModelError for a name no family has, with the nearest ones."""
    family, _, name = source.partition(":")
    if user_code.is_code(source):
        return "code", source
    if family == "pickle":
        problem = "the whole module was pickled, and only that pickle can rebuild it"
        raise ModelError(
            "model/whole-pickled-module", name, problem, "give its code: path/to/net.py:factory@checkpoint"
        )
    if family == "cifar":
        if cifar.blocks_per_stage(name) is None:
            raise _unknown(source, name, {family: list(cifar.NAMES)})
        return "cifar", name
    if family == "torchvision":
        if name not in torchvision_names():
            raise _unknown(source, name, {family: torchvision_names()})
        return "torchvision", name
    if family == "timm":
        if name.partition(".")[0] not in timm_names():
            raise _unknown(source, name, {family: timm_names()})
        return "timm", name
    everywhere = {"cifar": list(cifar.NAMES), "torchvision": torchvision_names(), "timm": timm_names()}
    raise _unknown(source, name or source, everywhere)


def _unknown(source: str, name: str, names: dict[str, list[str]]) -> ModelError:
    exact = [f"{family}:{name}" for family, known in names.items() if name in known]
    alike = [f"{family}:{close}" for family, known in names.items() for close in get_close_matches(name, known, n=3)]
    nearest = exact or alike
    hint = (
        f"did you mean {' or '.join(nearest[:4])}?"
        if nearest
        else "give torchvision:NAME, timm:NAME, cifar:NAME or a path"
    )
    return ModelError("model/unknown-architecture", source, "the architecture is unknown", hint)


def torchvision_names() -> list[str]:
    """Classification, segmentation and detection; what takes video or two images is no model of one picture."""
    from torchvision import models

    rooms = (models, models.segmentation, models.detection)
    return [name for room in rooms for name in models.list_models(module=room)]


def timm_names() -> list[str]:
    import timm

    names: list[str] = timm.list_models()
    return names


def model_defaults(source: str) -> Defaults:
    """Input size, classes and normalisation of an architecture, before any weights are named."""
    family, name = split_name(source)
    if family == "cifar":
        return Defaults(cifar.INPUT, cifar.CLASSES, cifar.MEAN, cifar.STD)
    if family == "torchvision":
        return _torchvision_defaults(name)
    if family == "timm":
        from timm.models import get_pretrained_cfg

        cfg = _in_words(source, get_pretrained_cfg, name)
        return Defaults(tuple(cfg.input_size), cfg.num_classes, tuple(cfg.mean), tuple(cfg.std))
    return Defaults((3, 224, 224), 0, None, None)


def _torchvision_defaults(name: str) -> Defaults:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    crop = getattr(preset, "crop_size", [224])[0]
    size = 224 if name.startswith("vit_") else crop  # some published ViTs are larger than what the builder builds
    mean, std = tuple(getattr(preset, "mean", IMAGENET_MEAN)), tuple(getattr(preset, "std", IMAGENET_STD))
    if name in RESCALES_INPUT:
        mean = std = HALF
    return Defaults((3, size, size), len(weights.meta["categories"]), mean, std)


def build_named(spec: ModelSpec) -> nn.Module:
    """The architecture with random weights, in eval mode; under `torch.device("meta")` without any.

    Auxiliary heads, which only training uses, are left out. Raises ModelError for unknown names and impossible sizes.
    """
    family, name = split_name(spec.source)
    if family == "cifar":
        module: nn.Module = cifar.cifar_resnet(
            name,
            num_classes=cifar.CLASSES if spec.num_classes is None else spec.num_classes,
            in_channels=spec.input[0],
        )
    elif family == "torchvision":
        module = _build_torchvision(spec, name)
    elif family == "timm":
        import timm

        module = _in_words(spec.source, timm.create_model, name, pretrained=False, **timm_settings(spec, name))
    else:
        module, _ = prepare_module(user_code.build_module(spec.source, spec.num_classes, spec.arguments))
    return module.eval()


def can_rebuild(spec: ModelSpec) -> bool:
    """Whether `build_named` can make this architecture again: not one that only its own pickle holds."""
    return not spec.source.startswith("pickle:")


def _build_torchvision(spec: ModelSpec, name: str) -> nn.Module:
    from torchvision import models

    settings: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    channels, *size = spec.input
    detects = name in models.list_models(module=models.detection)
    if name in RESCALES_INPUT:
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
        module: nn.Module = _in_words(spec.source, models.get_model_builder(name), weights=None, **settings)
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
    """Put a new first convolution in, alike but for its input channels."""
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


def timm_settings(spec: ModelSpec, name: str) -> dict[str, Any]:
    """What timm.create_model needs to know; `img_size` only where weights depend on it."""
    from timm.models import get_pretrained_cfg

    cfg = _in_words(spec.source, get_pretrained_cfg, name)
    settings: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    if spec.input[0] != cfg.input_size[0]:
        settings["in_chans"] = spec.input[0]
    if cfg.fixed_input_size and spec.input[1:] != tuple(cfg.input_size[1:]):
        settings["img_size"] = spec.input[1:]
    return settings


def _in_words(source: str, function: Any, *args: Any, **settings: Any) -> Any:
    """Call a library's builder; what it raises for names and sizes it does not take becomes one line."""
    try:
        return function(*args, **settings)
    except CompressorError:
        raise
    except Exception as error:  # builders raise whatever their layers happen to raise
        sizes = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in ("weights", "pretrained"))
        problem = f"it cannot be built{f' with {sizes}' if sizes else ''} ({type(error).__name__}: {error})"
        raise ModelError("model/not-buildable", source, problem, "set sizes that the architecture takes") from None


class _WidthsOnCpu(TorchFunctionMode):
    """RegNet's builder computes its widths with small tensors and reads them back, which the meta device can't."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_cpu = func in (torch.arange, torch.tensor) and "device" not in kwargs  # layers do pass theirs
        return func(*args, **kwargs | ({"device": "cpu"} if on_cpu else {}))


class _WithoutInit(TorchFunctionMode):
    """Zeros instead of random numbers: the draws are what makes building a large network slow."""

    _DRAWS = (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._DRAWS:
            with torch.no_grad():
                return args[0].zero_()
        return func(*args, **(kwargs or {}))


@contextmanager
def fixed_seed() -> Iterator[None]:
    """The same random weights every time; the caller's random numbers are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


@contextmanager
def weights_to_come(source: str) -> Iterator[None]:
    """For building a network whose every weight is loaded next. A user's code may draw more than weights, so it may."""
    with fixed_seed(), nullcontext() if user_code.is_code(source) else _WithoutInit():
        yield
