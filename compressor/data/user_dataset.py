"""A split that is a Python object: images with targets, item by item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from compressor.data.decode import decode_error, resize_crop
from compressor.data.splits import EncodedImage, EncodedImages, InMemorySplit, Shape, as_targets
from compressor.errors import DataError
from compressor.tensors import to_float32
from compressor.user_code import user_items

RETURN_SPLITS = "return (train, val), each a data set of (image, target)"
_IMAGES = "give Pillow images, uint8 tensors (C, H, W), or floats in the shape that the model takes"


class UserDataset:
    """The images and targets of a Dataset, of the one that a DataLoader reads, or of a pair (images, targets)."""

    def __init__(self, given: Any, where: str) -> None:
        given = given.dataset if isinstance(given, DataLoader) else given
        if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, Tensor) for part in given):
            images, targets = (len(part) if part.ndim else 0 for part in given)
            if images != targets:
                problem = f"it has {images} images, but {targets} targets"
                raise DataError("data/factory", where, problem, "give one target for each image")
            given = TensorDataset(*given)
        elif not _is_dataset(given):
            problem = f"it is a {type(given).__name__}, neither a data set with a length nor (images, targets)"
            raise DataError("data/factory", where, problem, RETURN_SPLITS)
        self.given = given

    @property
    def names(self) -> list[str]:
        """A name for each image, for messages."""
        return [f"item {index}" for index in range(len(self))]

    def __len__(self) -> int:
        return len(self.given)

    def items(self) -> Iterator[Any]:
        """Yield each image with its target."""
        return (self.given[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> EncodedImage:
        picture: EncodedImage = self.given[index][0]
        return picture


def _is_dataset(given: object) -> bool:
    return isinstance(given, Sized) and hasattr(given, "__getitem__") and not isinstance(given, str | bytes | Mapping)


def load_dataset(dataset: UserDataset, where: str, input: Shape, zoom: float, *, labels: bool) -> InMemorySplit:
    """Read all images and targets into memory.

    Args:
        dataset: The images and targets.
        where: Its name, for messages.
        input: (C, H, W) that the model takes.
        zoom: As for `resize_crop`.
        labels: Whether the targets are classes.

    Returns:
        The split.

    Raises:
        DataError: An item is not an image with a target, or the user's code raises an error.
    """
    images, targets = [], []
    for name, image, target in _pairs(dataset, where):
        try:
            images.append(resize_crop(image, input, zoom))
        except Exception as error:  # decoders of damaged images may raise anything
            problem = f"the image cannot be read ({decode_error(error)})"
            raise DataError("data/factory", f"{where}: {name}", problem, _IMAGES) from error
        targets.append(target)
    stacked = torch.stack(images) if images else torch.empty((0, *input))
    return InMemorySplit(where, stacked, _targets(targets, where, labels), dataset.names)


def index_dataset(dataset: UserDataset, where: str, *, labels: bool) -> EncodedImages:
    """Read all targets. Images are read again batch by batch.

    Args:
        dataset: The images and targets.
        where: Its name, for messages.
        labels: Whether the targets are classes.

    Returns:
        The split.

    Raises:
        DataError: A target is invalid, or the user's code raises an error.
    """
    targets = _targets([target for _, _, target in _pairs(dataset, where)], where, labels)
    return EncodedImages(where, dataset, dataset.names, targets)


def _pairs(dataset: UserDataset, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, the image and the target of each item."""
    items = user_items(dataset.items(), DataError, "data/user-code-raised", where)
    for name, item in zip(dataset.names, items, strict=True):
        if not isinstance(item, tuple | list) or len(item) != 2:
            length = f" of {len(item)} entries" if isinstance(item, tuple | list) else ""
            problem = f"it is a {type(item).__name__}{length}, not a pair (image, target)"
            raise DataError("data/factory", f"{where}: {name}", problem, RETURN_SPLITS)
        yield name, *item


def _targets(targets: Sequence[Any], where: str, labels: bool) -> Any:
    if labels:
        return as_targets([_label(target, f"{where}: item {index}") for index, target in enumerate(targets)])
    try:
        return to_float32(default_collate(list(targets))) if targets else torch.empty(0)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        problem = f"the targets cannot be stacked ({' '.join(str(error).split())[:200]})"
        raise DataError("data/factory", where, problem, "give targets of one type and shape") from error


def _label(label: Any, where: str) -> int:
    single = isinstance(label, np.generic) or (isinstance(label, Tensor) and label.numel() == 1)
    value = label.item() if single else label
    if isinstance(value, bool) or not isinstance(value, int):
        shown = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        problem = f"the label {shown} is not an integer"
        raise DataError("data/factory", where, problem, "set data.task if it is not a class")
    return value
