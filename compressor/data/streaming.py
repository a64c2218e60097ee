"""A split that remains on disk: worker processes decode, augment and normalize batches ahead of the training.

The images of a batch and their keys are chosen before they are read. Hence batches do not depend on the number of
workers, and equal those of a split in memory.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compressor.bench.runner.system_info import usable_cpu_count
from compressor.data.augmentation import Augmentation
from compressor.data.decode import decode_error, decode_original, quiet_decoder, resize_crop
from compressor.data.sampling import ReadBlocks
from compressor.data.splits import BatchIndex, EncodedImages, Shape
from compressor.errors import DataError
from compressor.tensors import tree_map

PREFETCH = 2  # batches that each worker prepares ahead


@dataclass(frozen=True, slots=True)
class StreamingSplit:
    """An `ImageSource` that decodes images when they are needed."""

    encoded: EncodedImages
    input: Shape
    zoom: float = 1.0  # as that of Augmentation
    workers: int = 0  # processes; 0 = only this one

    @property
    def where(self) -> str:
        return self.encoded.where

    @property
    def targets(self) -> Any:
        return self.encoded.targets

    @property
    def names(self) -> Sequence[str]:
        return self.encoded.names

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.encoded.classes

    @property
    def blocks(self) -> ReadBlocks | None:
        return self.encoded.blocks

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

        Raises:
            DataError: Names the image that cannot be read.
        """
        with warnings.catch_warnings():
            # Python warns of a fork while threads run, but workers use no lock of these threads. torch warns of more
            # workers than processors, which the user has chosen.
            warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            batches = iter(self._loader(_Reader(self, augmentation, finish), chosen))
        for batch in batches:
            if isinstance(batch, _Unreadable):
                place, problem = f"{self.where}: {self.names[batch.row]}", f"the image cannot be read ({batch.reason})"
                raise DataError("data/unreadable-image", place, problem, "repair or remove it")
            yield batch

    def _loader(self, reader: _Reader, chosen: Iterable[BatchIndex]) -> DataLoader[Any]:
        return DataLoader(
            reader,
            sampler=chosen,  # without batch_size, each item is one batch
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
            generator=torch.Generator(),  # so that it does not draw from the generator of the training
        )


def available_workers(processes: int = 1) -> int:
    """Return the number of processors for decoding if `processes` like this one share the machine."""
    return max(usable_cpu_count() // processes, 1)


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Sent instead of a batch, because an exception would arrive without its attributes."""

    row: int
    reason: str


@dataclass(frozen=True)
class _Reader(Dataset[Any]):
    """Runs in a worker: rows and keys of a batch -> its images and targets."""

    split: StreamingSplit
    augmentation: Augmentation
    finish: Callable[[Tensor], Tensor]

    def __getitem__(self, chosen: BatchIndex) -> tuple[Tensor, Any] | _Unreadable:
        (rows, keys), (channels, height, width) = chosen, self.split.input
        change = self.augmentation.change if keys is not None else None
        takes_originals = change is not None and self.augmentation.takes_originals
        images = []
        with quiet_decoder():
            for row in rows.tolist():
                try:
                    picture = self.split.encoded.pictures[row]
                    if takes_originals:
                        images.append(decode_original(picture, channels))
                    else:
                        images.append(resize_crop(picture, self.split.input, self.split.zoom))
                except Exception as error:  # decoders of damaged files may raise anything
                    return _Unreadable(row, decode_error(error))
        batch = torch.stack(images) if change is None or keys is None else change(images, keys, (height, width))
        return self.finish(batch), tree_map(itemgetter(rows), self.split.targets)
