"""Random changes to a whole batch of images at once, (B, C, H, W) in and out, any dtype."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

CROP_PADDING = 4


def crop_and_flip(images: Tensor, generator: Generator, padding: int = CROP_PADDING) -> Tensor:
    """Each image cut at a random place out of itself with a border of zeros, and mirrored every second time.

    The usual augmentation of CIFAR (He et al., arXiv:1512.03385, section 4.2); the draws come from `generator` alone.
    """
    count, _, height, width = images.shape
    top_B = torch.randint(0, 2 * padding + 1, (count,), generator=generator)
    left_B = torch.randint(0, 2 * padding + 1, (count,), generator=generator)
    flip_B = torch.rand(count, generator=generator) < 0.5

    windows = F.pad(images, (padding, padding, padding, padding)).unfold(2, height, 1).unfold(3, width, 1)
    cut = windows[torch.arange(count), :, top_B, left_B]  # a view (B, C, places, places, H, W) -> (B, C, H, W)
    return torch.where(flip_B[:, None, None, None], cut.flip(3), cut)
