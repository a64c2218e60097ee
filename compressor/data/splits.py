"""Splits of labelled images, encoded or in memory, and their files on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compressor.data.augmentation import Augmentation
from compressor.data.sampling import RandomWords, ReadBlocks
from compressor.tensors import tree_map

Shape = tuple[int, int, int]  # channels, height, width
EncodedImage = bytes | Path | Image.Image | Tensor
BatchIndex = tuple[Tensor, RandomWords | None]
"""rows of a batch (B,) and their keys; None = without augmentation"""

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded pixels; a larger split remains on disk


class ImageSequence(Protocol):
    """Images by index, encoded or decoded."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> EncodedImage | None: ...


class ImageSource(Protocol):
    """A split, in memory or on disk. `targets`: a tensor (N, ...), or a tuple or mapping of such tensors."""

    @property
    def where(self) -> str: ...
    @property
    def targets(self) -> Any: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...  # None = the source does not name them
    @property
    def blocks(self) -> ReadBlocks | None: ...

    def batches(
        self, chosen: Iterable[BatchIndex], augmentation: Augmentation, finish: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Any]]:
        """Yield batches.

        Args:
            chosen: Rows and keys of each batch.
            augmentation: Applied to images that have keys.
            finish: Normalizes the images (B, C, H, W).

        Returns:
            Batches of images and targets.
        """
        ...


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """A split of encoded images. `names`: where each image comes from, for messages."""

    where: str
    pictures: ImageSequence
    names: Sequence[str]
    targets: Any
    classes: tuple[str, ...] | None = None
    blocks: ReadBlocks | None = None


@dataclass(frozen=True, slots=True)
class InMemorySplit:
    """A split in memory. `images`: (N, C, H, W), uint8, or float32 if the source has normalized them."""

    where: str
    images: Tensor
    targets: Any
    names: Sequence[str]
    classes: tuple[str, ...] | None = None
    blocks: ReadBlocks | None = None

    def batches(
        self, chosen: Iterable[BatchIndex], augmentation: Augmentation, finish: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Any]]:
        """Yield batches.

        Args:
            chosen: Rows and keys of each batch.
            augmentation: Applied to images that have keys.
            finish: Normalizes the images (B, C, H, W).

        Returns:
            Batches of images and targets.
        """
        height, width = self.images.shape[2:]
        for rows, keys in chosen:
            images = self.images.index_select(0, rows)  # copies whole images, and takes half of the time of [rows]
            if keys is not None and augmentation.change is not None:
                images = augmentation.change(images, keys, (height, width))
            yield finish(images), tree_map(itemgetter(rows), self.targets)


def fits_in_memory(count: int, input: Shape) -> bool:
    """Check that decoded images take at most MEMORY_LIMIT.

    Args:
        count: The number of images.
        input: (C, H, W).

    Returns:
        Whether they fit.
    """
    return count * int(np.prod(input)) <= MEMORY_LIMIT


def as_targets(labels: Iterable[int]) -> Tensor:
    """Convert labels to int64 (N,)."""
    return torch.from_numpy(np.array(labels, np.int64))  # a copy, because Arrow's arrays are read-only
