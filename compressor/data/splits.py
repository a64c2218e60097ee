"""What a source of data hands over: a split, still encoded or as tensors; and how its parts are found on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
"""Rows of one batch (B,), and their keys; None = not augmented."""

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded pixels; a larger split is streamed from disk


class ImageSequence(Protocol):
    """Pictures by number, decoded or not, however they are come by."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> EncodedImage | None: ...


class ImageSource(Protocol):
    """A split, wherever it lies. `targets`: a tensor (N, ...), or tuples and dictionaries of such."""

    @property
    def where(self) -> str: ...
    @property
    def targets(self) -> Any: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...  # None = the source does not say
    @property
    def blocks(self) -> ReadBlocks | None: ...

    def batches(
        self, chosen: Iterable[BatchIndex], augmentation: Augmentation, finish: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Any]]:
        """Images, augmented where there are keys, through `finish`; and their targets."""
        ...


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """Pictures as they lie on disk. `names` say where each comes from, for messages."""

    where: str
    pictures: ImageSequence
    names: Sequence[str]
    targets: Any
    classes: tuple[str, ...] | None = None
    blocks: ReadBlocks | None = None


@dataclass(frozen=True, slots=True)
class InMemorySplit:
    """In memory: images (N, C, H, W), uint8, or float32 if the source normalised them itself."""

    where: str
    images: Tensor
    targets: Any
    names: Sequence[str]
    classes: tuple[str, ...] | None = None
    blocks: ReadBlocks | None = None

    def batches(
        self, chosen: Iterable[BatchIndex], augmentation: Augmentation, finish: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Any]]:
        height, width = self.images.shape[2:]
        for rows, keys in chosen:
            images = self.images[rows]
            if keys is not None and augmentation.change is not None:
                images = augmentation.change(images, keys, (height, width))
            yield finish(images), rows_of(self.targets, rows)


def rows_of(targets: Any, rows: Tensor) -> Any:
    return tree_map(lambda each: each[rows], targets)


def fits_in_memory(count: int, input: Shape) -> bool:
    """Whether `count` decoded images stay within MEMORY_LIMIT."""
    return count * int(np.prod(input)) <= MEMORY_LIMIT


def as_targets(labels: Iterable[int]) -> Tensor:
    return torch.from_numpy(np.array(labels, np.int64))  # a copy: Arrow's are read-only
