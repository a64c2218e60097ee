"""How a batch is shared by several processes."""

from __future__ import annotations

from compressor.core import Data, Train
from compressor.errors import RecipeError


def check_parts(step: Train, data: Data, processes: int) -> None:
    """Raises RecipeError unless every process gets as many images of a batch as any other."""
    batch = min(step.batch_size, data.train_size)
    if batch % processes:
        found = f"{processes} processes for batches of {batch} images"
        nearest = max(batch - batch % processes, processes)
        raise RecipeError(
            "training", step.stage, found, f"use a batch_size that is a multiple of {processes}, such as {nearest}"
        )
