"""What a source of data hands over: a split, still encoded or as tensors; and how its parts are found on disk."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compressor.errors import DataError

Shape = tuple[int, int, int]  # channels, height, width

# What the field calls the split that is only reported on, the likeliest first: where both a validation and a
# test split are published, the test split's labels often are not.
NAMES = {"train": ("train",), "val": ("validation", "val", "valid", "test")}

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded pixels


@dataclass(frozen=True, slots=True)
class Encoded:
    """Pictures as they lie on disk. `names` say where each comes from, for messages."""

    where: str
    pictures: Sequence[bytes | Path | None]
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...] | None = None  # None = the source does not say


@dataclass(frozen=True, slots=True)
class Split:
    """Images (N, C, H, W), uint8, or float32 if the source normalised them itself; labels (N,), int64."""

    where: str
    images: Tensor
    labels: Tensor
    names: Sequence[str]
    classes: tuple[str, ...] | None = None


def locate(base: Path, given: str, key: str) -> Path:
    """The path `given` under `base`. Raises DataError, with what comes nearest, when there is none."""
    path = base / given
    if path.exists():
        return path
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, beside, n=1)
    todo = f"did you mean {nearest[0]}?" if nearest else f"give an existing path as {key}"
    raise DataError("data", f"{key}: {path}", "no such file or folder", todo)


def check_memory(count: int, input: Shape, where: str) -> None:
    """Raises DataError when `count` decoded images would not fit in MEMORY_LIMIT."""
    need = count * int(np.prod(input))
    if need > MEMORY_LIMIT:
        raise DataError(
            "data",
            where,
            f"{count} images of {'x'.join(map(str, input))} take {need / 2**30:.1f} GiB in memory, "
            f"the limit is {MEMORY_LIMIT / 2**30:.0f} GiB",
            "streaming from disk is not supported yet: give a subset or a smaller model.input",
        )
