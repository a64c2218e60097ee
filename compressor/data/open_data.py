"""Open the data of a recipe: find them, decode them or leave them on disk, and check them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from compressor.core import ModelInput, ModelSpec, Task
from compressor.data.augmentation import Augmentation, make_augmentation
from compressor.data.data_settings import DataSettings
from compressor.data.decode import check_channels, decode
from compressor.data.digits import digits_split
from compressor.data.image_data import ImageData
from compressor.data.image_folder import folder_split
from compressor.data.locate import IN_MEMORY
from compressor.data.normalize import channel_statistics
from compressor.data.open_samples import Preprocessing, noise_samples, open_samples, samples_from_object
from compressor.data.parquet import parquet_split
from compressor.data.python_sources import (
    call_factory,
    factory_splits,
    is_split_pair,
    objects_in_memory,
    torchvision_splits,
)
from compressor.data.samples import Samples
from compressor.data.sampling import hold_out
from compressor.data.splits import EncodedImages, ImageSource, Shape, fits_in_memory
from compressor.data.streaming import StreamingSplit, available_workers
from compressor.data.tasks import classification
from compressor.data.user_dataset import RETURN_SPLITS, UserDataset, index_dataset, load_dataset
from compressor.data.validate import check_augmentation, check_held_out, check_targets
from compressor.errors import DataError

SOURCES = "parquet, folder, digits, torchvision:NAME, file.py:factory, samples or noise"


def open_data(
    settings: DataSettings,
    base: Path | None,
    spec: ModelSpec,
    *,
    num_classes: int | None = None,
    task: Task | None = None,
) -> ImageData | Samples:
    """Open both splits of labelled data, or samples without labels, in the shape that the model takes.

    A split is kept in memory if it fits. A larger one, or one whose augmentation crops the original images, is read
    from disk batch by batch.

    Args:
        settings: The data, with any source but `auto`. Without `mean` or `std` these are the training images' own.
        base: The folder that paths are relative to; None = the current one.
        spec: The inputs of the model.
        num_classes: The model's number of classes; None = any number.
        task: The task, opened; None = classification.

    Returns:
        The data.

    Raises:
        DataError: The data cannot be trained, calibrated or measured on.
    """
    base, task = base or Path(), task or classification()
    source, inputs, image = settings.source, spec.inputs, spec.image
    _check_batch_dims(inputs, str(base / settings.train) if source == "samples" and settings.train else source)
    preprocessing = Preprocessing(settings.mean, settings.std)
    workers = available_workers() if settings.workers is None else settings.workers
    if source == "samples":
        samples = open_samples(base / (settings.train or ""), inputs, image, preprocessing, workers)
        return _as_values_if_regression(samples, task)
    if source.partition(":")[0] == "noise":
        return _as_values_if_regression(noise_samples(inputs, int(source.partition(":")[2] or 0)), task)
    returned = objects_in_memory(settings.value) if source == IN_MEMORY else None
    if source.rpartition(":")[0].endswith(".py"):
        returned = call_factory(base, source, "data.source")
        if not isinstance(returned, Iterable) and not hasattr(returned, "__getitem__"):
            hint = f"return inputs of the model, or an iterable of them; with labels, {RETURN_SPLITS}"
            raise DataError("data/factory", source, f"it returned {type(returned).__name__}", hint)
    if returned is not None and not is_split_pair(returned, inputs):
        return _as_values_if_regression(samples_from_object(returned, source, inputs, image, preprocessing), task)
    if image is None:
        takes = " and ".join("x".join(map(str, expected.shape)) for expected in inputs)
        problem = f"the data are labelled images, but the model takes {takes}"
        raise DataError("data/no-picture-input", source, problem, "give samples without labels, or no data")
    reader = _SplitReader(image, make_augmentation(settings.augment), workers)
    first, second = _splits(settings, base, reader, returned, labels=task.name == "classification")
    count = check_targets(task, first, second, num_classes)
    check_augmentation(settings.augment, first)
    mean, std = settings.mean, settings.std
    measured = channel_statistics(first, image[0]) if mean is None or std is None else (mean, std)
    mean, std = mean or measured[0], std or measured[1]
    for key, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != image[0]:
            problem, hint = f"it has {len(values)} values", f"give one value for each of the {image[0]} channels"
            raise DataError("data/wrong-statistics-length", key, problem, hint)
    held_out = hold_out(first.targets if count else torch.zeros(len(first.names)), settings.holdout)
    check_held_out(held_out, settings.holdout, first)
    return ImageData(_name(source, first), count, mean, std, first, second, settings.augment, task, held_out)


def _as_values_if_regression(samples: Samples, task: Task) -> Samples:
    """Samples have no labels, but outputs of regression are compared by their values, and not as scores of classes."""
    return replace(samples, num_classes=0) if task.name == "regression" else samples


def _check_batch_dims(inputs: Sequence[ModelInput], where: str) -> None:
    """Raise an error where the model takes one sample at a time, as graphs of any size are."""
    if inputs and all(like.batch_dim is None for like in inputs):
        problem = "the model has no batch dimension, so that it does not take the batches of samples"
        hint = "run without data (recipe l1 needs none), or set model.batch_dim if there is one"
        raise DataError("data/no-batch-dimension", where, problem, hint)


@dataclass(frozen=True, slots=True)
class _SplitReader:
    """Decodes a split into memory, or leaves it on disk."""

    input: Shape
    augmentation: Augmentation
    workers: int

    def _remains_on_disk(self, split: str, count: int) -> bool:
        return (split == "train" and self.augmentation.takes_originals) or not fits_in_memory(count, self.input)

    def read_encoded(self, split: str, encoded: EncodedImages) -> ImageSource:
        """Read a split of files.

        Args:
            split: `train` or `val`.
            encoded: Its images.

        Returns:
            The split.
        """
        if self._remains_on_disk(split, len(encoded.pictures)):
            return StreamingSplit(encoded, self.input, self.augmentation.zoom, self.workers)
        return decode(encoded, self.input, self.augmentation.zoom)

    def read_dataset(self, split: str, dataset: UserDataset, where: str, *, labels: bool) -> ImageSource:
        """Read a split that is a Python object.

        Args:
            split: `train` or `val`.
            dataset: Its images and targets.
            where: Its name, for messages.
            labels: Whether the targets are classes.

        Returns:
            The split.
        """
        if self._remains_on_disk(split, len(dataset)):
            encoded = index_dataset(dataset, where, labels=labels)
            return StreamingSplit(encoded, self.input, self.augmentation.zoom, self.workers)
        return load_dataset(dataset, where, self.input, self.augmentation.zoom, labels=labels)


def _name(source: str, train: ImageSource) -> str:
    return Path(train.where).resolve().parent.name if source in ("parquet", "folder") else source


def _splits(
    settings: DataSettings, base: Path, reader: _SplitReader, returned: object, *, labels: bool
) -> tuple[ImageSource, ImageSource]:
    """Read both splits. `returned`: what the factory of a `file.py:factory` source returned, or data in memory."""
    source, train, val = settings.source, settings.train, settings.val
    kind, _, rest = source.partition(":")
    is_factory = returned is not None
    if not is_factory:  # a factory may return floats with any number of channels
        check_channels(reader.input)
    match kind:
        case "parquet":
            read = partial(parquet_split, labels=labels)
            first, second = read(base, "train", train), read(base, "val", val)
            return reader.read_encoded("train", first), reader.read_encoded("val", second)
        case "folder":
            first = folder_split(base, "train", train)
            second = folder_split(base, "val", val, first.classes or ())
            return reader.read_encoded("train", first), reader.read_encoded("val", second)
        case "digits":
            return digits_split("train", reader.input), digits_split("val", reader.input)
        case "torchvision":
            pair = torchvision_splits(base, rest)
        case _ if is_factory:
            pair = factory_splits(returned, source)
        case _:
            raise DataError("data/unknown-source", "data.source", f"{source} is unknown", f"use one of {SOURCES}")
    first_source, second_source = (
        reader.read_dataset(split, dataset, f"{source} {split}", labels=labels) for split, dataset in pair
    )
    return first_source, second_source
