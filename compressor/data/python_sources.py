"""Data sets that are Python objects: a user's own factory, or one of torchvision's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from compressor.core import ModelInput
from compressor.data.decode import resize_crop
from compressor.data.paths import find_data_file
from compressor.data.splits import EncodedImage, EncodedImages, InMemorySplit, Shape, as_targets
from compressor.errors import DataError
from compressor.tensors import to_float32
from compressor.user_code import importable, user_errors_as

_BY_TRAIN: tuple[dict[str, object], ...] = ({"train": True}, {"train": False})
_BY_SPLIT: tuple[dict[str, object], ...] = ({"split": "train"}, {"split": "test"})

TORCHVISION: Mapping[str, tuple[dict[str, object], ...]] = {
    "CIFAR10": _BY_TRAIN,
    "CIFAR100": _BY_TRAIN,
    "DTD": _BY_SPLIT,
    "FGVCAircraft": ({"split": "trainval"}, {"split": "test"}),
    "FashionMNIST": _BY_TRAIN,
    "Flowers102": _BY_SPLIT,
    "Food101": _BY_SPLIT,
    "GTSRB": _BY_SPLIT,
    "Imagenette": ({"split": "train"}, {"split": "val"}),
    "KMNIST": _BY_TRAIN,
    "MNIST": _BY_TRAIN,
    "OxfordIIITPet": ({"split": "trainval"}, {"split": "test"}),
    "STL10": _BY_SPLIT,
    "SVHN": _BY_SPLIT,
    "StanfordCars": _BY_SPLIT,
}
"""Data set -> what its class is called with for the training and the test split."""


Splits = tuple[tuple[str, "UserDataset"], tuple[str, "UserDataset"]]  # the training and the test split, named


def is_split_pair(made: object, inputs: Sequence[ModelInput]) -> bool:
    """Whether a factory returned labelled splits, (train, val), and not inputs of the model.

    Args:
        made: what the factory returned.
        inputs: what the model takes.

    Returns:
        True for a pair, unless it holds a tensor for each of the model's two inputs.
    """
    pair = isinstance(made, tuple | list) and len(made) == 2
    tensors = pair and len(inputs) == 2 and all(isinstance(item, Tensor) for item in made)  # type: ignore[attr-defined]
    return pair and not tensors


def factory_splits(made: Any, source: str) -> Splits:
    """The labelled splits of `file.py:factory`, which returned (train, val).

    Args:
        made: two data sets, each a Dataset of (image, target), or (images, targets). Images are Pillow's, or uint8
            tensors (C, H, W) to be normalised here, or float tensors that already are.
        source: `file.py:factory`, for messages.

    Returns:
        Both splits, named.

    Raises:
        DataError: whatever the user's code does wrong.
    """
    with user_errors_as(DataError, "data/user-code-raised", source):
        return ("train", UserDataset(made[0])), ("val", UserDataset(made[1]))


def torchvision_splits(base: Path, name: str) -> Splits:
    """`torchvision:NAME`, read from the folder `base`, and downloaded there where it is not in it yet."""
    if name not in TORCHVISION:
        raise DataError(
            "data/unknown-torchvision-dataset",
            "data.source",
            f"torchvision:{name} is not supported",
            f"use one of {', '.join(TORCHVISION)}",
        )
    from torchvision import datasets

    def make(download: bool) -> Splits:
        train, val = (
            getattr(datasets, name)(str(base), **arguments, download=download) for arguments in TORCHVISION[name]
        )
        return ("train", UserDataset(train)), ("val", UserDataset(val))

    try:
        return make(download=False)
    except RuntimeError:  # not there, or not whole
        pass
    try:
        with redirect_stdout(sys.stderr):  # stdout carries the result only
            return make(download=True)
    except Exception as fault:  # what a server, a proxy or an archive has to say
        problem = f"it is not in {base.resolve()}, and the download failed ({type(fault).__name__}: {fault})"
        hint = "set --data to its folder, or run once with a network connection"
        raise DataError("data/download-failed", f"torchvision:{name}", problem, hint) from fault


class UserDataset:
    """The pictures of a data set, or of (images, targets)."""

    def __init__(self, given: Any) -> None:
        self.pair = isinstance(given, tuple) and len(given) == 2 and all(isinstance(each, Tensor) for each in given)
        if not self.pair and not isinstance(given, Sized):
            raise TypeError(f"{type(given).__name__} is neither a Dataset with a length nor (images, targets)")
        self.given = given

    @property
    def names(self) -> list[str]:
        return [f"item {index}" for index in range(len(self))]

    def __len__(self) -> int:
        return len(self.given[0] if self.pair else self.given)

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        if self.pair:
            return zip(*self.given, strict=True)
        return (self.given[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> EncodedImage:
        picture: EncodedImage = self.given[0][index] if self.pair else self.given[index][0]
        return picture


def keep_entries(given: UserDataset, where: str, input: Shape, zoom: float, *, labels: bool) -> InMemorySplit:
    """All images in memory, read once. `labels`: the targets are classes.

    Raises DataError for whatever is no image or no label, and for what the user's code raises.
    """
    with user_errors_as(DataError, "data/user-code-raised", where):
        images, targets = [], []
        for image, target in given.pairs():
            images.append(resize_crop(image, input, zoom))
            targets.append(target)
        stacked = torch.stack(images) if images else torch.empty((0, *input))
        return InMemorySplit(where, stacked, _targets(targets, labels), given.names)


def drop_entries(given: UserDataset, where: str, *, labels: bool) -> EncodedImages:
    """Targets read once, images to be read again batch by batch."""
    with user_errors_as(DataError, "data/user-code-raised", where):
        return EncodedImages(where, given, given.names, _targets([target for _, target in given.pairs()], labels))


def _targets(found: list[Any], labels: bool) -> Any:
    if labels:
        return as_targets([_label(each) for each in found])
    return to_float32(default_collate(found)) if found else torch.empty(0)


def _label(label: Any) -> int:
    single = isinstance(label, np.generic) or (isinstance(label, Tensor) and label.numel() == 1)
    value = label.item() if single else label
    if isinstance(value, bool) or not isinstance(value, int):
        found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"label {found} is not an integer; say what it is with data.task")
    return value


def call_factory(base: Path, source: str, key: str) -> Any:
    """What `file.py:factory` returns when it is called. The file is looked up under `base`; `key` is the recipe's.

    Raises DataError, at the user's own line, for whatever the code does wrong.
    """
    file, _, name = source.rpartition(":")
    path = find_data_file(base, file, key)
    with user_errors_as(DataError, "data/user-code-raised", source, path), importable(path.parent):
        return getattr(_imported(path), name)()


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
