"""Data sets that are Python objects: from a user's factory, or from torchvision."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from compressor.core import ModelInput
from compressor.data.paths import find_data_file
from compressor.data.user_dataset import UserDataset
from compressor.errors import DataError
from compressor.user_code import find_callable, importable, user_errors_as

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
"""Data set -> arguments of its class for the training and the test split."""


Splits = tuple[tuple[str, UserDataset], tuple[str, UserDataset]]  # the training and the test split, named


def is_split_pair(returned: object, inputs: Sequence[ModelInput]) -> bool:
    """Check whether a factory returned labelled splits, (train, val), and not inputs of the model.

    Args:
        returned: What the factory returned.
        inputs: The inputs of the model.

    Returns:
        True for a pair, unless it holds a tensor for each of the model's two inputs.
    """
    pair = isinstance(returned, tuple | list) and len(returned) == 2
    tensors = pair and len(inputs) == 2 and all(isinstance(item, Tensor) for item in returned)  # type: ignore[attr-defined]
    return pair and not tensors


def factory_splits(returned: Any, source: str) -> Splits:
    """Name the labelled splits that a factory returned.

    Args:
        returned: (train, val), each a Dataset of (image, target), or (images, targets). Images are Pillow's, or uint8
            tensors (C, H, W) that are normalized here, or float tensors that are normalized already.
        source: `file.py:factory`, for messages.

    Returns:
        Both splits, named.

    Raises:
        DataError: A split is no data set.
    """
    return _named(source, *returned)


def _named(source: str, train: Any, val: Any) -> Splits:
    return ("train", UserDataset(train, f"{source} train")), ("val", UserDataset(val, f"{source} val"))


def torchvision_splits(base: Path, name: str) -> Splits:
    """Open a data set of torchvision, and download it if it is missing.

    Args:
        base: The folder that contains it.
        name: The name of its class.

    Returns:
        Both splits, named.

    Raises:
        DataError: The name is unknown, or the download failed.
    """
    if name not in TORCHVISION:
        problem, hint = f"torchvision:{name} is not supported", f"use one of {', '.join(TORCHVISION)}"
        raise DataError("data/unknown-torchvision-dataset", "data.source", problem, hint)
    from torchvision import datasets

    def make(download: bool) -> Splits:
        return _named(
            f"torchvision:{name}",
            *(getattr(datasets, name)(str(base), **arguments, download=download) for arguments in TORCHVISION[name]),
        )

    try:
        return make(download=False)
    except RuntimeError:  # missing or incomplete
        pass
    try:
        return make(download=True)
    except Exception as error:  # from a server, a proxy or an archive
        problem = f"it is not in {base.resolve()}, and the download failed ({type(error).__name__}: {error})"
        hint = "set --data to its folder, or run once with a network connection"
        raise DataError("data/download-failed", f"torchvision:{name}", problem, hint) from error


def objects_in_memory(value: object) -> object:
    """Return data in memory in the form of a factory's: arrays as tensors, loaders as the data sets they read."""
    match value:
        case np.ndarray():
            return torch.from_numpy(value)
        case DataLoader():
            return value.dataset
        case tuple() | list():
            return type(value)(objects_in_memory(part) for part in value)
        case Mapping():
            return {name: objects_in_memory(part) for name, part in value.items()}
    return value


def call_factory(base: Path, source: str, key: str) -> Any:
    """Call a user's factory.

    Args:
        base: The folder that the file is relative to.
        source: `file.py:factory`.
        key: The recipe's key that names it.

    Returns:
        What the factory returned.

    Raises:
        DataError: The file or the factory does not exist, or the user's code raises an error, which is reported at the
            user's line.
    """
    file, _, name = source.rpartition(":")
    path = find_data_file(base, file, key)
    with user_errors_as(DataError, "data/user-code-raised", source, path), importable(path.parent):
        return find_callable(_imported(path), path, name, DataError, "data/no-such-callable")()


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
