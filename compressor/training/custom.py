"""Data sets that are Python objects: a user's own factory, or one of torchvision's."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compressor.errors import DataError
from compressor.training.decode import fit
from compressor.training.splits import Shape, Split, check_memory, locate

TORCHVISION = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST")


def factory_splits(base: Path, source: str, input: Shape) -> tuple[Split, Split]:
    """`file.py:factory`, whose `factory()` returns (train, val): each a Dataset of (image, label), or (images, labels).

    Images are Pillow's, or uint8 tensors (C, H, W) to be normalised here, or float tensors that already are.
    Raises DataError for whatever the user's code does wrong.
    """
    file, _, name = source.rpartition(":")
    path = locate(base, file, "data.source")
    try:
        train, val = _load(path, name)()
    except (Exception, SystemExit) as fault:  # the user's code may raise anything, and call sys.exit
        raise _wrong(_line(path, fault) or source, fault) from fault
    return _split(train, f"{source} train", input), _split(val, f"{source} val", input)


def torchvision_splits(base: Path, name: str, input: Shape) -> tuple[Split, Split]:
    """`torchvision:NAME`, read from the folder `base` and downloaded there if it is not in it yet."""
    if name not in TORCHVISION:
        raise DataError("data", "data.source", f"torchvision:{name}", f"use one of {', '.join(TORCHVISION)}")
    from torchvision import datasets

    try:
        train, val = (getattr(datasets, name)(str(base), train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as fault:
        raise _wrong(f"torchvision:{name} in {base}", fault) from fault
    return _split(train, f"{name} train", input), _split(val, f"{name} test", input)


def _load(path: Path, name: str) -> Callable[[], Any]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    factory: Callable[[], Any] = getattr(module, name)
    return factory


def _line(path: Path, fault: BaseException) -> str | None:
    """The line of the user's file that failed, where it was one of it."""
    lines = [frame.lineno for frame in traceback.extract_tb(fault.__traceback__) if Path(frame.filename) == path]
    if isinstance(fault, SyntaxError) and fault.lineno:
        lines.append(fault.lineno)
    return f"{path}:{lines[-1]}" if lines else None


def _wrong(where: str, fault: BaseException) -> DataError:
    return DataError("data", where, f"{type(fault).__name__}: {fault}", "correct the data source")


def _split(given: Any, where: str, input: Shape) -> Split:
    """Tensors of a split, from a pair of tensors or a Dataset."""
    try:
        if isinstance(given, tuple) and len(given) == 2 and all(isinstance(each, Tensor) for each in given):
            pairs: Iterable[tuple[Any, Any]] = zip(*given, strict=True)
            count = len(given[0])
        elif isinstance(given, Sized):
            count = len(given)
            pairs = (given[index] for index in range(count))  # type: ignore[index]  # a map-style Dataset
        else:
            raise TypeError(f"{type(given).__name__} is neither a Dataset with a length nor (images, labels)")
        check_memory(count, input, where)
        images, labels = [], []
        for image, label in pairs:
            images.append(_tensor(image, input))
            labels.append(_label(label))
        stacked = torch.stack(images) if images else torch.empty((0, *input), dtype=torch.uint8)
    except DataError:
        raise
    except Exception as fault:  # the user's Dataset may raise anything
        raise _wrong(where, fault) from fault
    names = [f"item {index}" for index in range(count)]
    return Split(where, stacked, torch.tensor(labels, dtype=torch.int64), names)


def _tensor(image: Any, input: Shape) -> Tensor:
    if isinstance(image, Tensor) and image.is_floating_point():
        if tuple(image.shape) != input:
            raise ValueError(f"a float image of shape {tuple(image.shape)}, the model takes {input}")
        return image.detach().to("cpu", torch.float32)
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"an image of {image.dtype} and shape {tuple(image.shape)}; give uint8 (1 or 3, H, W)")
        pixels = image.permute(1, 2, 0).cpu().numpy()
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image is a {type(image).__name__}; give a Pillow image or a tensor")
    return torch.from_numpy(fit(image, input).copy())


def _label(label: Any) -> int:
    value = label.item() if isinstance(label, Tensor | np.generic) else label
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"label {value!r} is not an integer")
    return value
