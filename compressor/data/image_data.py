"""Labelled images: a training split and a test split, augmented and normalized batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from compressor.core import Augment, Task
from compressor.data.augmentation import Augmentation, make_augmentation
from compressor.data.normalize import Normalize
from compressor.data.sampling import (
    SAMPLE_SEED,
    ProcessShare,
    held_out_count,
    image_keys,
    process_share,
    shuffled,
    spread_rows,
)
from compressor.data.splits import ImageSource
from compressor.data.tasks import classification


@dataclass(frozen=True, slots=True)
class ImageData:
    """Labelled images as `core.Data`. `mean` and `std` are per channel, for pixels in 0..1."""

    name: str
    num_classes: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: ImageSource
    val: ImageSource
    augment: Augment = "none"
    task: Task = field(default_factory=classification)
    held_out: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # rows of `train`
    batch_dims: None = None

    @property
    def train_size(self) -> int:
        return len(self.train.names) - len(self.held_out)

    @property
    def has_holdout(self) -> bool:
        return len(self.held_out) > 0

    @property
    def val_size(self) -> int:
        return len(self.val.names)

    def train_batches(
        self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: ProcessShare = (0, 1)
    ) -> Iterator[tuple[Tensor, Any]]:
        """Yield shuffled and augmented batches; a set that is smaller than a batch is one batch.

        Args:
            batch_size: Images in a batch, over all processes.
            epoch: Index of the epoch.
            seed: Seed of order and augmentation.
            start: Index of the first batch.
            part: (rank, world size).

        Returns:
            Batches of images and targets.
        """
        order = shuffled(self._rows(), seed, epoch, self.train.blocks)
        keys = image_keys(order, seed, epoch)
        size = min(batch_size, self.train_size)
        shares = (process_share(first, size, part) for first in range(start * size, self.train_size - size + 1, size))
        chosen = ((order[share], keys[share]) for share in shares)
        return self.train.batches(chosen, make_augmentation(self.augment), self._normalize)

    def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Tensor]:
        """Yield a fixed random sample of training images, without augmentation.

        Args:
            batch_size: Images in a batch.
            images: Images in the sample.

        Returns:
            Batches of images.
        """
        return (batch for batch, _ in self.sample_batches(batch_size, images=images))

    def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield the sample of `calibration_batches` with its targets.

        Args:
            batch_size: Images in a batch.
            images: Images in the sample.

        Returns:
            Batches of images and targets.
        """
        sample = shuffled(self._rows(), SAMPLE_SEED, 0, self.train.blocks)[:images]
        return self._plain(self.train, sample, batch_size)

    def holdout_batches(self, batch_size: int, *, images: int | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield the held-out images in order, without augmentation; the last batch may be smaller.

        Args:
            batch_size: Images in a batch.
            images: Images at most, at equal distances; None = all.

        Returns:
            Batches of images and targets.
        """
        return self._plain(self.train, self.held_out[spread_rows(len(self.held_out), images)], batch_size)

    def with_holdout(self, images: int) -> ImageData:
        """Hold out training images, at most a tenth of them, unless some are held out already.

        Args:
            images: Images at most.

        Returns:
            The data with this split.
        """
        if self.has_holdout:
            return self
        count = held_out_count(self.train_size, images)
        sample = shuffled(self._rows(), SAMPLE_SEED, 0, self.train.blocks)
        return replace(self, held_out=sample[len(sample) - count :].sort().values)

    def val_batches(self, batch_size: int, *, images: int | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield the test set in order, without augmentation; the last batch may be smaller.

        Args:
            batch_size: Images in a batch.
            images: Images at most, at equal distances; None = all.

        Returns:
            Batches of images and targets.
        """
        return self._plain(self.val, spread_rows(self.val_size, images), batch_size)

    def _plain(self, split: ImageSource, rows: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
        batches = (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))
        return split.batches(((batch, None) for batch in batches), Augmentation(), self._normalize)

    def _rows(self) -> Tensor:
        """Rows of the training split that are not held out."""
        kept = torch.ones(len(self.train.names), dtype=torch.bool)
        kept[self.held_out] = False
        return kept.nonzero().flatten()

    @property
    def _normalize(self) -> Normalize:
        return Normalize(self.mean, self.std)
