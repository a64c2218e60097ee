"""Random changes to training images, by name. What happens to an image depends on its own key alone.

Images are uint8, or floats their source normalised itself. Scaling is bilinear with antialiasing throughout.
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
"""(B, C, H, W), or pictures (C, h, w) of any sizes"""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """`change`: images, a key for each, and (height, width) -> (B, C, height, width)."""

    change: Callable[[Images, RandomWords, tuple[int, int]], Tensor] | None = None
    whole: bool = False  # the change is cut from the picture as it lies on disk, not from one already scaled
    zoom: float = 1.0  # not augmented: short side scaled to this times the input's, then its centre


def make_augmentation(name: Augment) -> Augmentation:
    """The usual ones:

    flip             mirrored every second time
    cifar            padded by 4, cut at random, mirrored (He et al., CVPR 2016, arXiv:1512.03385, section 4.2)
    trivialaugment   cifar, then TrivialAugment (Mueller and Hutter, ICCV 2021, arXiv:2103.10158)
    randaugment      cifar, then RandAugment with N = 2, M = 9 (Cubuk et al., NeurIPS 2020, arXiv:1909.13719)
    imagenet         8 to 100 % of the picture's area at 3/4 to 4/3 of its shape (Szegedy et al., CVPR 2015,
                     arXiv:1409.4842), mirrored; tested on the centre of the picture scaled to 256/224 of the input
    """
    match name:
        case "none":
            return Augmentation()
        case "flip":
            return Augmentation(lambda images, keys, size: crop_and_flip(_stacked(images), keys, 0))
        case "cifar":
            return Augmentation(lambda images, keys, size: crop_and_flip(_stacked(images), keys))
        case "imagenet":
            return Augmentation(_resized_crop, whole=True, zoom=256 / 224)
        case "trivialaugment" | "randaugment":
            return Augmentation(lambda images, keys, size: _coloured(name, crop_and_flip(_stacked(images), keys), keys))


def crop_and_flip(images: Tensor, keys: RandomWords, padding: int = CROP_PADDING) -> Tensor:
    """Each image cut at a random place out of itself with a border of zeros, and mirrored every second time."""
    count, _, height, width = images.shape
    draws = uniform(keys, 3)
    top_B, left_B = (draws[:2] * (2 * padding + 1)).long()
    flip_B = draws[2] < 0.5

    windows = F.pad(images, (padding, padding, padding, padding)).unfold(2, height, 1).unfold(3, width, 1)
    cut = windows[torch.arange(count), :, top_B, left_B]  # a view (B, C, places, places, H, W) -> (B, C, H, W)
    return torch.where(flip_B[:, None, None, None], cut.flip(3), cut)


def _resized_crop(images: Images, keys: RandomWords, size: tuple[int, int]) -> Tensor:
    return _one_by_one(_transform("imagenet", size), images, keys)


def _coloured(name: str, images: Tensor, keys: RandomWords) -> Tensor:
    return _one_by_one(_transform(name, (0, 0)), images, keys)


def _stacked(images: Images) -> Tensor:
    return images if isinstance(images, Tensor) else torch.stack(list(images))


def _one_by_one(transform: Callable[[Tensor], Tensor], images: Images, keys: RandomWords) -> Tensor:
    """torchvision draws from torch's own generator: seeded for each image, and put back afterwards."""
    changed = []
    with torch.random.fork_rng(devices=()):
        for image, key in zip(images, keys.tolist(), strict=True):
            torch.default_generator.manual_seed(key)  # torch.manual_seed would seed accelerators too
            changed.append(transform(image))
    return torch.stack(changed)


@cache
def _transform(name: str, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2  # here, because it takes a while to import

    made: Callable[[Tensor], Tensor]
    match name:
        case "imagenet":
            made = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
        case "trivialaugment":
            made = v2.TrivialAugmentWide()
        case _:
            made = v2.RandAugment(num_ops=2, magnitude=9)
    return made
