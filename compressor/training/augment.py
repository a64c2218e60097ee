"""Random changes to a whole batch of images at once, (B, C, H, W) in and out, any dtype."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.training.order import Words, uniform

CROP_PADDING = 4


def crop_and_flip(images: Tensor, keys: Words, padding: int = CROP_PADDING) -> Tensor:
    """Each image cut at a random place out of itself with a border of zeros, and mirrored every second time.

    The usual augmentation of CIFAR (He et al., arXiv:1512.03385, section 4.2). What happens to an image depends on
    its own key alone.
    """
    count, _, height, width = images.shape
    draws = uniform(keys, 3)
    top_B, left_B = (draws[:2] * (2 * padding + 1)).long()
    flip_B = draws[2] < 0.5

    windows = F.pad(images, (padding, padding, padding, padding)).unfold(2, height, 1).unfold(3, width, 1)
    cut = windows[torch.arange(count), :, top_B, left_B]  # a view (B, C, places, places, H, W) -> (B, C, H, W)
    return torch.where(flip_B[:, None, None, None], cut.flip(3), cut)
