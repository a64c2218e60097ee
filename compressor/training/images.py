"""A data set in memory: uint8 images, augmented and normalised by the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from compressor.training.augment import crop_and_flip
from compressor.training.order import Part, keys, share, shuffled
from compressor.training.splits import Split

SAMPLE_SEED = 0


@dataclass(frozen=True, slots=True)
class ImageData:
    """Both splits in memory; implements `core.Data`. `mean` and `std` are per channel, for pixels in 0..1."""

    name: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    val: Split
    augmented: bool

    @property
    def train_size(self) -> int:
        return len(self.train.labels)

    @property
    def val_size(self) -> int:
        return len(self.val.labels)

    def train_batches(
        self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: Part = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled and augmented; a set smaller than a batch is one batch."""
        order = shuffled(torch.arange(self.train_size), seed, epoch)
        size = min(batch_size, self.train_size)
        for first in range(start * size, self.train_size - size + 1, size):
            chosen = share(order[first : first + size], part)
            images = self.train.images[chosen]
            if self.augmented:
                images = crop_and_flip(images, keys(chosen, seed, epoch))
            yield self._normalised(images), self.train.labels[chosen]

    def plain_batches(self, batch_size: int, *, images: int) -> Iterator[Tensor]:
        """A fixed sample of `images` training images, not augmented: files are often sorted by class."""
        sample = torch.randperm(self.train_size, generator=Generator().manual_seed(SAMPLE_SEED))[:images]
        for start in range(0, len(sample), batch_size):
            yield self._normalised(self.train.images[sample[start : start + batch_size]])

    def val_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image of the test set, in its order; the last batch may be smaller."""
        for start in range(0, self.val_size, batch_size):
            batch = slice(start, start + batch_size)
            yield self._normalised(self.val.images[batch]), self.val.labels[batch]

    def _normalised(self, images: Tensor) -> Tensor:
        """(pixel / 255 - mean) / std; images that came as floats stay as they are."""
        if images.is_floating_point():
            return images
        scale = torch.tensor([1 / (255 * std) for std in self.std])[:, None, None]
        shift = torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)])[:, None, None]
        return images.to(torch.float32).mul_(scale).add_(shift)
