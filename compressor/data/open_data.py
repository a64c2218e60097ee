"""Open the data a recipe names: find it, decode it or leave it on disk, check it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from compressor.core import Augment, Task
from compressor.data.augmentation import Augmentation, make_augmentation
from compressor.data.decode import check_channels, decode
from compressor.data.digits import digits_split
from compressor.data.image_folder import folder_split
from compressor.data.in_memory import ImageData
from compressor.data.parquet import parquet_split
from compressor.data.python_sources import UserDataset, drop_entries, factory_splits, keep_entries, torchvision_splits
from compressor.data.sampling import hold_out, shuffled
from compressor.data.splits import EncodedImages, ImageSource, InMemorySplit, Shape, fits_in_memory
from compressor.data.streaming import StreamingSplit, available_workers
from compressor.data.tasks import classification
from compressor.data.validate import check_augmentation, check_held_out, check_targets
from compressor.errors import DataError

SOURCES = "parquet, folder, digits, torchvision:NAME or file.py:factory"
MEASURED = 4096  # images that mean and standard deviation are estimated on where they stay on disk


def open_data(
    source: str,
    *,
    train: str | None,
    val: str | None,
    base: Path | None,
    input: Shape,
    num_classes: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    augment: Augment,
    task: Task | None = None,
    holdout: float = 0.0,
    workers: int | None = None,
) -> ImageData:
    """Both splits, of the shape the model takes. Paths are relative to `base`, or to the current folder.

    A split stays in memory where it fits; one that is larger, or whose augmentation cuts whole pictures, is read from
    disk batch by batch, by `workers` processes (None = one for each processor).
    `num_classes`: the model's; None = whatever the data has. `mean`, `std`: per channel for pixels in 0..1;
    None = those of the training images. `holdout`: share of each class's training images that is held out.
    Raises DataError for anything that cannot be trained or measured on.
    """
    base, task = base or Path(), task or classification()
    places = _Places(input, make_augmentation(augment), available_workers() if workers is None else workers)
    first, second = _splits(source, train, val, base, places, labels=task.name == "classification")
    count = check_targets(task, first, second, num_classes)
    check_augmentation(augment, first)
    measured = _statistics(first, input[0]) if mean is None or std is None else (mean, std)
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
    source: str, train: str | None, val: str | None, base: Path, places: _Places, *, labels: bool
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
            made = torchvision_splits(base, rest)
        case _ if theirs:
            made = factory_splits(base, source)
        case _:
            raise DataError("data/unknown-source", "data.source", f"{source} is unknown", f"use one of {SOURCES}")
    training, testing = (places.objects(split, each, f"{source} {split}", labels=labels) for split, each in made)
    return training, testing


def _statistics(split: ImageSource, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in 0..1, over all pixels, or over those of MEASURED images where
    they stay on disk; 0 and 1 for images that are floats."""
    if isinstance(split, InMemorySplit):
        images = split.images
    else:
        rows = shuffled(torch.arange(len(split.names)), 0, 0, split.blocks)[:MEASURED]
        batches = split.batches(
            ((batch, None) for batch in torch.split(rows, 64)), Augmentation(), lambda images: images
        )
        images = torch.cat([batch for batch, _ in batches])
    if images.is_floating_point():
        return (0.0,) * channels, (1.0,) * channels
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(channels):
        share = torch.bincount(images[:, channel].flatten(), minlength=256) / images[:, channel].numel()
        centre = float((share * values).sum())
        mean.append(centre)
        std.append(float((share * (values - centre) ** 2).sum().sqrt()) or 1.0)  # one flat colour: nothing to scale
    return tuple(mean), tuple(std)
