"""Open the data a recipe names: find it, decode it, check it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from compressor.errors import DataError
from compressor.training.custom import factory_splits, torchvision_splits
from compressor.training.decode import check_channels, decode
from compressor.training.digits import digits_split
from compressor.training.folder import folder_split, split_folder
from compressor.training.images import ImageData
from compressor.training.parquet import parquet_files, parquet_split, shards
from compressor.training.splits import NAMES, Shape, Split, locate

SOURCES = "parquet, folder, digits, torchvision:NAME or file.py:factory"


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
    augment: Literal["none", "cifar"],
) -> ImageData:
    """Both splits in memory, of the shape the model takes. Paths are relative to `base`, or to the current folder.

    `num_classes`: the model's; None = whatever the data has. `mean`, `std`: per channel for pixels in 0..1;
    None = those of the training images. Raises DataError for anything that cannot be trained or measured on.
    """
    base = base or Path()
    check_channels(input)
    first, second = _splits(source, train, val, base, input)
    count = _check(first, second, num_classes)
    measured = _statistics(first) if mean is None or std is None else (mean, std)
    mean, std = mean or measured[0], std or measured[1]
    for key, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != input[0]:
            raise DataError("data", key, f"{len(values)} values", f"give one for each of the {input[0]} channels")
    return ImageData(_name(source, first), count, mean, std, first, second, augmented=augment == "cifar")


def infer_source(path: str) -> dict[str, str]:
    """What `--data PATH` stands for: `source`, and for files `train` and `val` as absolute paths (globs allowed).

    A folder with Parquet files, a folder with train/ and val/, `file.py:factory`, `digits` or `torchvision:NAME`.
    """
    if path == "digits" or path.startswith("torchvision:"):
        return {"source": path}
    file, colon, factory = path.rpartition(":")
    if colon and file.endswith(".py"):
        return {"source": f"{locate(Path(), file, '--data').resolve()}:{factory}"}
    where = locate(Path(), path, "--data").resolve()
    if where.is_file():
        found = "a single file" if where.suffix == ".parquet" else "neither a folder nor a Parquet file"
        raise DataError(
            "data", f"--data {path}", found, "give the folder that holds both splits, or set data.train and data.val"
        )
    if any(where.glob("*.parquet")):
        return {"source": "parquet", **{split: _files(where, split) for split in NAMES}}
    if any((where / name).is_dir() for names in NAMES.values() for name in names):
        return {"source": "folder", **{split: str(split_folder(where, split, None)) for split in NAMES}}
    raise DataError(
        "data",
        f"--data {path}",
        "a folder with neither *.parquet nor train/",
        "give train.parquet and test.parquet, or train/<class>/ and val/<class>/",
    )


def _files(folder: Path, split: str) -> str:
    files = parquet_files(folder, split, None)
    return str(files[0] if len(files) == 1 else folder / shards(files))


def _name(source: str, train: Split) -> str:
    return Path(train.where).resolve().parent.name if source in ("parquet", "folder") else source


def _splits(source: str, train: str | None, val: str | None, base: Path, input: Shape) -> tuple[Split, Split]:
    kind, _, rest = source.partition(":")
    match kind:
        case "parquet":
            return decode(parquet_split(base, "train", train), input), decode(parquet_split(base, "val", val), input)
        case "folder":
            return decode(folder_split(base, "train", train), input), decode(folder_split(base, "val", val), input)
        case "digits":
            return digits_split("train", input), digits_split("val", input)
        case "torchvision":
            return torchvision_splits(base, rest, input)
    if source.rpartition(":")[0].endswith(".py"):
        return factory_splits(base, source, input)
    raise DataError("data", "data.source", source, f"use one of {SOURCES}")


def _check(train: Split, val: Split, num_classes: int | None) -> int:
    """The number of classes. Raises DataError for an empty split, an impossible label, classes unlike the model's."""
    for split in (train, val):
        if not len(split.labels):
            raise DataError("data", split.where, "no images", "give at least one in each split")
    if train.classes != val.classes:
        missing = set(train.classes or ()) ^ set(val.classes or ())
        raise DataError(
            "data",
            val.where,
            f"its classes differ from those of {train.where}: " + ", ".join(sorted(missing)[:5] or ["another order"]),
            "give both splits the same classes",
        )
    largest = int(train.labels.argmax())
    count = len(train.classes) if train.classes else int(train.labels[largest]) + 1
    for split in (train, val):
        if len(wrong := ((split.labels < 0) | (split.labels >= count)).nonzero().flatten()):
            first = int(wrong[0])
            raise DataError(
                "data",
                f"{split.where}: {split.names[first]}",
                f"label {int(split.labels[first])} is outside 0..{count - 1} ({len(wrong)} such labels)",
                "correct or remove them",
            )
    if num_classes is not None and count != num_classes:
        raise DataError(
            "data",
            train.where,
            f"found {count} classes (largest label {int(train.labels[largest])}, {train.names[largest]}), "
            f"the model has {num_classes}",
            "give data of the model's classes, or a model of the data's",
        )
    return count


def _statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, in 0..1; 0 and 1 for images that are floats."""
    channels = split.images.shape[1]
    if split.images.is_floating_point():
        return (0.0,) * channels, (1.0,) * channels
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(channels):
        share = torch.bincount(split.images[:, channel].flatten(), minlength=256) / split.images[:, channel].numel()
        centre = float((share * values).sum())
        mean.append(centre)
        std.append(float((share * (values - centre) ** 2).sum().sqrt()) or 1.0)  # one flat colour: nothing to scale
    return tuple(mean), tuple(std)
