"""Samples that steps without labels are fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.core import Data

BATCH_SIZE = 64


def calibration_arguments(data: Data, images: int) -> list[tuple[Tensor, ...]]:
    """Draw training samples without augmentation, as arguments of the model.

    Args:
        data: The data.
        images: Samples at most.

    Returns:
        Batches of BATCH_SIZE, a tensor for each input.
    """
    from compressor.tensors import as_arguments

    return [as_arguments(inputs) for inputs in data.calibration_batches(BATCH_SIZE, images=images)]
