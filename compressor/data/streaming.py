"""A split that stays on disk: worker processes decode, augment and normalise batches ahead of the training.

Which images a batch holds and how they are changed is decided before they are read, so batches are the same whatever
the number of workers, and the same as those of a split in memory.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compressor.data.augmentation import Augmentation
from compressor.data.decode import decode_error, is_complete, quiet_decoder, resize_crop
from compressor.data.sampling import ReadBlocks
from compressor.data.splits import BatchIndex, EncodedImages, Shape, rows_of
from compressor.errors import DataError

PREFETCH = 2  # batches that each worker keeps ready


@dataclass(frozen=True, slots=True)
class StreamingSplit:
    """Implements `Pictures`. `zoom`: as Augmentation's; `workers`: processes, 0 = none but this one."""

    encoded: EncodedImages
    input: Shape
    zoom: float = 1.0
    workers: int = 0

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
        """Raises DataError, naming the picture, where one cannot be read."""
        with warnings.catch_warnings():
            # Python warns of forking with threads about, but workers take no lock of theirs; torch of more workers
            # than processors, which is for whoever asks for them.
            warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            batches = iter(self._loader(_Reader(self, augmentation, finish), chosen))
        for batch in batches:
            if isinstance(batch, _Unreadable):
                where = f"{self.where}: {self.names[batch.row]}"
                raise DataError(
                    "data/unreadable-image", where, f"the image cannot be read ({batch.reason})", "repair or remove it"
                )
            yield batch

    def _loader(self, reader: _Reader, chosen: Iterable[BatchIndex]) -> DataLoader[Any]:
        return DataLoader(
            reader,
            sampler=chosen,  # with batch_size None, what it yields is one batch
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
            generator=torch.Generator(),  # it draws a number: not one of the training's
        )


def available_workers(processes: int = 1) -> int:
    """Processors that decoding may use when `processes` like this one share the machine."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(usable // processes, 1)


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Sent instead of a batch: an exception would reach the other process as mere words."""

    row: int
    reason: str


@dataclass(frozen=True)
class _Reader(Dataset[Any]):
    """What a worker does: rows and keys of a batch -> its images and targets."""

    split: StreamingSplit
    augmentation: Augmentation
    finish: Callable[[Tensor], Tensor]

    def __getitem__(self, chosen: BatchIndex) -> tuple[Tensor, Any] | _Unreadable:
        (rows, keys), (channels, height, width) = chosen, self.split.input
        change = self.augmentation.change if keys is not None else None
        uncut = change is not None and self.augmentation.whole
        images = []
        with quiet_decoder():
            for row in rows.tolist():
                try:
                    picture = self.split.encoded.pictures[row]
                    images.append(
                        is_complete(picture, channels)
                        if uncut
                        else resize_crop(picture, self.split.input, self.split.zoom)
                    )
                except Exception as fault:  # a decoder given damaged bytes may raise anything
                    return _Unreadable(row, decode_error(fault))
        done = torch.stack(images) if change is None or keys is None else change(images, keys, (height, width))
        return self.finish(done), rows_of(self.split.targets, rows)
