"""The data set the engine sees: two splits, in memory or on disk, augmented and normalised by the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compressor.core import Augment, Task
from compressor.data.augmentation import Augmentation, make_augmentation
from compressor.data.normalization import Normalize
from compressor.data.sampling import ProcessShare, process_share, shuffled, sort_keys
from compressor.data.splits import ImageSource
from compressor.data.tasks import classification

SAMPLE_SEED = 0


@dataclass(frozen=True, slots=True)
class ImageData:
    """Implements `core.Data`. `mean` and `std` are per channel, for pixels in 0..1."""

    name: str
    num_classes: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: ImageSource
    val: ImageSource
    augment: Augment = "none"
    task: Task = field(default_factory=classification)
    held_out: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # rows of `train`

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
        """Shuffled and augmented; a set smaller than a batch is one batch."""
        order = shuffled(self._rows(), seed, epoch, self.train.blocks)
        size = min(batch_size, self.train_size)
        firsts = range(start * size, self.train_size - size + 1, size)
        chosen = (process_share(order[first : first + size], part) for first in firsts)
        return self.train.batches(
            ((rows, sort_keys(rows, seed, epoch)) for rows in chosen), make_augmentation(self.augment), self._normalize
        )

    def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Tensor]:
        """A fixed sample of `images` training images, not augmented: files are often sorted by class."""
        return (batch for batch, _ in self.sample_batches(batch_size, images=images))

    def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Tensor, Any]]:
        """The same sample with its targets."""
        sample = shuffled(self._rows(), SAMPLE_SEED, 0, self.train.blocks)[:images]
        return self._plain(self.train, sample, batch_size)

    def holdout_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
        """Every held-out training image, not augmented, in its order; the last batch may be smaller."""
        return self._plain(self.train, self.held_out, batch_size)

    def val_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
        """Every image of the test set, in its order; the last batch may be smaller."""
        return self._plain(self.val, torch.arange(self.val_size), batch_size)

    def _plain(self, split: ImageSource, rows: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
        batches = (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))
        return split.batches(((batch, None) for batch in batches), Augmentation(), self._normalize)

    def _rows(self) -> Tensor:
        """Of the training split, what is trained on."""
        kept = torch.ones(len(self.train.names), dtype=torch.bool)
        kept[self.held_out] = False
        return kept.nonzero().flatten()

    @property
    def _normalize(self) -> Normalize:
        return Normalize(self.mean, self.std)
