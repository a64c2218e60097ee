"""Augmentations of training images, by name. The change of an image depends on its key alone.

Images are uint8, or floats that their source has normalized. Scaling is bilinear with antialiasing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.core import Augment
from compressor.data.sampling import RandomWords, uniform

CROP_PADDING = 4

Images = Tensor | Sequence[Tensor]
"""(B, C, H, W), or images (C, h, w) of any sizes"""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """`change`: images, one key each, and (height, width) -> (B, C, height, width)."""

    change: Callable[[Images, RandomWords, tuple[int, int]], Tensor] | None = None
    takes_originals: bool = False  # `change` takes images in their original size
    zoom: float = (
        1.0  # without augmentation, the short side is scaled to this times the input's, then the centre is cut
    )


def make_augmentation(name: Augment) -> Augmentation:
    """Make an augmentation:

    flip             mirrored with probability 1/2
    cifar            padded by 4, cropped at random, mirrored (He et al., CVPR 2016, arXiv:1512.03385, section 4.2)
    trivialaugment   cifar, then TrivialAugment (Mueller and Hutter, ICCV 2021, arXiv:2103.10158)
    randaugment      cifar, then RandAugment with N = 2, M = 9 (Cubuk et al., NeurIPS 2020, arXiv:1909.13719)
    imagenet         8 to 100 % of the area at an aspect ratio of 3/4 to 4/3 (Szegedy et al., CVPR 2015,
                     arXiv:1409.4842), mirrored; tested on the centre of the image scaled to 256/224 of the input
    """
    match name:
        case "none":
            return Augmentation()
        case "flip":
            return Augmentation(lambda images, keys, size: crop_and_flip(_stacked(images), keys, 0))
        case "cifar":
            return Augmentation(lambda images, keys, size: crop_and_flip(_stacked(images), keys))
        case "imagenet":
            return Augmentation(_resized_crop, takes_originals=True, zoom=256 / 224)
        case "trivialaugment" | "randaugment":
            return Augmentation(
                lambda images, keys, size: _recolored(name, crop_and_flip(_stacked(images), keys), keys)
            )


def crop_and_flip(images: Tensor, keys: RandomWords, padding: int = CROP_PADDING) -> Tensor:
    """Crop each image at a random position of its zero-padded copy, and mirror it with probability 1/2.

    Args:
        images: (B, C, H, W).
        keys: One key for each image.
        padding: Width of the zeros around an image.

    Returns:
        (B, C, H, W).
    """
    count, channels, height, width = images.shape
    draws = uniform(keys, 3)
    top_B, left_B = (draws[:2] * (2 * padding + 1)).long()
    flip_B = draws[2] < 0.5

    padded = F.pad(images, (padding, padding, padding, padding))
    # Lines are copied whole, and then the columns of each line one by one: twice as fast as windows by their index.
    first_BC1 = torch.arange(count * channels).view(count, channels, 1) * padded.shape[2]
    lines_BCH = first_BC1 + top_B[:, None, None] + torch.arange(height)
    lines = padded.flatten(0, 2).index_select(0, lines_BCH.flatten()).view(count, channels, height, padded.shape[3])
    columns = torch.arange(width)
    columns_BW = left_B[:, None] + torch.where(flip_B[:, None], columns.flip(0), columns)
    return lines.gather(3, columns_BW[:, None, None].expand(count, channels, height, width))


def _resized_crop(images: Images, keys: RandomWords, size: tuple[int, int]) -> Tensor:
    return _one_by_one(_transform("imagenet", size), images, keys)


def _recolored(name: str, images: Tensor, keys: RandomWords) -> Tensor:
    return _one_by_one(_transform(name, (0, 0)), images, keys)


def _stacked(images: Images) -> Tensor:
    return images if isinstance(images, Tensor) else torch.stack(list(images))


def _one_by_one(transform: Callable[[Tensor], Tensor], images: Images, keys: RandomWords) -> Tensor:
    """Apply a torchvision transform to each image. It draws from torch's generator, which is seeded with the key."""
    changed = []
    with torch.random.fork_rng(devices=()):
        for image, key in zip(images, keys.tolist(), strict=True):
            torch.default_generator.manual_seed(key)  # torch.manual_seed would also seed accelerators
            changed.append(transform(image))
    return torch.stack(changed)


@cache
def _transform(name: str, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2  # imported here, because it is slow

    transform: Callable[[Tensor], Tensor]
    match name:
        case "imagenet":
            transform = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
        case "trivialaugment":
            transform = v2.TrivialAugmentWide()
        case _:
            transform = v2.RandAugment(num_ops=2, magnitude=9)
    return transform
