"""Open the data a recipe names: find it, decode it or leave it on disk, check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from compressor.core import Augment, ModelInput, Task, one_image
from compressor.data.augmentation import Augmentation, make_augmentation
from compressor.data.decode import check_channels, decode
from compressor.data.digits import digits_split
from compressor.data.image_folder import folder_split
from compressor.data.in_memory import ImageData
from compressor.data.normalization import channel_statistics
from compressor.data.open_samples import Preprocessing, noise_samples, open_samples, samples_from_object
from compressor.data.parquet import parquet_split
from compressor.data.python_sources import (
    UserDataset,
    call_factory,
    drop_entries,
    factory_splits,
    is_split_pair,
    keep_entries,
    torchvision_splits,
)
from compressor.data.samples import Samples
from compressor.data.sampling import hold_out
from compressor.data.splits import EncodedImages, ImageSource, Shape, fits_in_memory
from compressor.data.streaming import StreamingSplit, available_workers
from compressor.data.tasks import classification
from compressor.data.validate import check_augmentation, check_held_out, check_targets
from compressor.errors import DataError

SOURCES = "parquet, folder, digits, torchvision:NAME, file.py:factory, samples or noise"


def open_data(
    source: str,
    *,
    train: str | None,
    val: str | None,
    base: Path | None,
    input: Shape | None,
    num_classes: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    augment: Augment,
    task: Task | None = None,
    holdout: float = 0.0,
    workers: int | None = None,
    inputs: Sequence[ModelInput] = (),
    zoom: float = 1.0,
) -> ImageData | Samples:
    """Open both splits of labelled data, or samples without labels, in the shape that the model takes.

    A split stays in memory where it fits; one that is larger, or whose augmentation crops the original pictures, is
    read from disk batch by batch.

    Args:
        source: parquet, folder, digits, torchvision:NAME, file.py:factory, samples or noise[:SEED].
        train: path or glob of the training split or of the samples, relative to `base`.
        val: the same of the test split.
        base: the folder that paths are relative to; None = the current one.
        input: (C, H, W) of the one picture that the model takes; None for a model that takes anything else.
        num_classes: the model's classes; None = whatever the data has.
        mean: per channel, for pixels in 0..1; None = that of the training images.
        std: likewise.
        augment: how training images are augmented.
        task: what labelled data are for; None = classification.
        holdout: share of each class's training images that is held out to choose by.
        workers: processes that decode what stays on disk; None = one for each processor.
        inputs: what the model takes; () = one picture of shape `input`.
        zoom: short side of an unlabelled picture before its centre is cut, relative to that of `input`.

    Returns:
        The data.

    Raises:
        DataError: the data cannot be trained, calibrated or measured on.
    """
    base, task = base or Path(), task or classification()
    inputs = inputs or (one_image(input) if input else ())
    preprocessing = Preprocessing(zoom, mean, std)
    worker_count = available_workers() if workers is None else workers
    if source == "samples":
        return open_samples(base / (train or ""), inputs, input, preprocessing, worker_count)
    if source.partition(":")[0] == "noise":
        return noise_samples(inputs, int(source.partition(":")[2] or 0))
    made = None
    if source.rpartition(":")[0].endswith(".py"):
        made = call_factory(base, source, "data.source")
        if not is_split_pair(made, inputs):
            return samples_from_object(made, source, inputs, input, preprocessing)
    if input is None:
        takes = " and ".join("x".join(map(str, expected.shape)) for expected in inputs)
        problem = f"labelled images, and the model takes {takes}"
        raise DataError("data/no-picture-input", source, problem, "give samples without labels, or no data")
    places = _Places(input, make_augmentation(augment), worker_count)
    first, second = _splits(source, train, val, base, places, made, labels=task.name == "classification")
    count = check_targets(task, first, second, num_classes)
    check_augmentation(augment, first)
    measured = channel_statistics(first, input[0]) if mean is None or std is None else (mean, std)
    mean, std = mean or measured[0], std or measured[1]
    for key, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != input[0]:
            raise DataError(
                "data/wrong-statistics-length",
                key,
                f"it has {len(values)} values",
                f"give one value for each of the {input[0]} channels",
            )
    held = check_held_out(hold_out(first.targets if count else torch.zeros(len(first.names)), holdout), holdout, first)
    return ImageData(_name(source, first), count, mean, std, first, second, augment, task, held)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a split is kept, and how it gets the shape the model takes."""

    input: Shape
    style: Augmentation
    workers: int

    def on_disk(self, count: int, split: str) -> bool:
        return (split == "train" and self.style.whole) or not fits_in_memory(count, self.input)

    def encoded(self, split: str, found: EncodedImages) -> ImageSource:
        if self.on_disk(len(found.pictures), split):
            return StreamingSplit(found, self.input, self.style.zoom, self.workers)
        return decode(found, self.input, self.style.zoom)

    def objects(self, split: str, given: UserDataset, where: str, *, labels: bool) -> ImageSource:
        if self.on_disk(len(given), split):
            return StreamingSplit(drop_entries(given, where, labels=labels), self.input, self.style.zoom, self.workers)
        return keep_entries(given, where, self.input, self.style.zoom, labels=labels)


def _name(source: str, train: ImageSource) -> str:
    return Path(train.where).resolve().parent.name if source in ("parquet", "folder") else source


def _splits(
    source: str, train: str | None, val: str | None, base: Path, places: _Places, made: object, *, labels: bool
) -> tuple[ImageSource, ImageSource]:
    kind, _, rest = source.partition(":")
    theirs = source.rpartition(":")[0].endswith(".py")
    if not theirs:  # a factory may give floats of as many channels as the model takes
        check_channels(places.input)
    match kind:
        case "parquet":
            read = partial(parquet_split, labels=labels)
            first, second = read(base, "train", train), read(base, "val", val)
            return places.encoded("train", first), places.encoded("val", second)
        case "folder":
            first = folder_split(base, "train", train)
            second = folder_split(base, "val", val, first.classes or ())
            return places.encoded("train", first), places.encoded("val", second)
        case "digits":
            return digits_split("train", places.input), digits_split("val", places.input)
        case "torchvision":
            pair = torchvision_splits(base, rest)
        case _ if theirs:
            pair = factory_splits(made, source)
        case _:
            raise DataError("data/unknown-source", "data.source", f"{source} is unknown", f"use one of {SOURCES}")
    training, testing = (places.objects(split, each, f"{source} {split}", labels=labels) for split, each in pair)
    return training, testing
