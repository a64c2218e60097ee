"""Mixup and CutMix: images of a batch mixed in pairs, and their labels with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from compressor.errors import RecipeError

Mix = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""images and targets of a batch -> the same, mixed"""


def mixing(mixup: float, cutmix: float, num_classes: int | None) -> Mix:
    """Mixup with weights from Beta(mixup, mixup) (Zhang et al., ICLR 2018, arXiv:1710.09412), CutMix with areas from
    Beta(cutmix, cutmix) (Yun et al., ICCV 2019, arXiv:1905.04899); where both are given, either by turns, at random.

    They draw from torch's own random numbers, which checkpoints hold. Raises RecipeError where there are no labels.
    """
    if not mixup and not cutmix:
        return lambda images, targets: (images, targets)
    if num_classes is None:
        todo = "leave retrain.mixup and retrain.cutmix out"
        raise RecipeError("retrain", "mixup" if mixup else "cutmix", "the targets are no classes", todo)
    from torchvision.transforms import v2

    wanted = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    either: Mix = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in wanted if alpha])
    return either
