"""Normalization of images by the statistics that a model expects, or by those of the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.data.augmentation import Augmentation
from compressor.data.sampling import shuffled
from compressor.data.splits import ImageSource, InMemorySplit

MEASURED_IMAGES = 4096  # of a split that is on disk


@dataclass(frozen=True, slots=True)
class Normalize:
    """(pixel / 255 - mean) / std by channel, in float32. Images that are floats are not changed."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            return images
        scale = torch.tensor([1 / (255 * std) for std in self.std])[:, None, None]
        shift = torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)])[:, None, None]
        return images.to(torch.float32).mul_(scale).add_(shift)


def channel_statistics(split: ImageSource, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Estimate the mean and the standard deviation of each channel over all pixels.

    Args:
        split: Images, uint8 or float32; 4096 of them are read if they are on disk.
        channels: The number of channels C.

    Returns:
        C means and C standard deviations for pixels in 0..1; zeros and ones for images that are floats.
    """
    if isinstance(split, InMemorySplit):
        images = split.images
    else:
        rows = shuffled(torch.arange(len(split.names)), 0, 0, split.blocks)[:MEASURED_IMAGES]
        chosen = ((batch, None) for batch in torch.split(rows, 64))
        images = torch.cat([batch for batch, _ in split.batches(chosen, Augmentation(), lambda batch: batch)])
    if images.is_floating_point():
        return (0.0,) * channels, (1.0,) * channels
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(channels):
        share = torch.bincount(images[:, channel].flatten(), minlength=256) / images[:, channel].numel()
        mean = float((share * values).sum())
        means.append(mean)
        deviations.append(float((share * (values - mean) ** 2).sum().sqrt()) or 1.0)  # a constant channel is not scaled
    return tuple(means), tuple(deviations)
