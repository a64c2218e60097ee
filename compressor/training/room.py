"""When memory runs out: how large a batch would fit."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compressor.core import Data
from compressor.errors import Temporary
from compressor.training.nested import tensors

_SAID = ("can't allocate memory", "not enough memory", "out of memory")  # what torch's allocators say


@contextmanager
def largest_batch_told(attempt: Callable[[int], object], batch_size: int, processes: int) -> Iterator[None]:
    """Raises Temporary, with a batch size that fits, where memory runs out in the block.

    `attempt`: does with so many images, of one process, what takes the memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what the failed batch has taken so far
        fits = processes * _halved_until_done(attempt, batch_size // processes)
        todo = (
            f"batches of {fits} fit: set batch_size to {fits}" if fits else "not even one image fits: free some memory"
        )
        raise Temporary("out of memory", "training", f"with batches of {batch_size} images", todo) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Python's own, that of a GPU, or the one torch raises for a processor, which has no class."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in _SAID)


def _halved_until_done(attempt: Callable[[int], object], images: int) -> int:
    """The first of images/2, images/4, ... that `attempt` ends with; 0 = none."""
    while images := images // 2:
        try:
            attempt(images)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        else:
            return images
    return 0


def forward_and_backward(answer: Callable[[Tensor], Any], data: Data, device: torch.device, images: int) -> None:
    """What takes most of the memory of an iteration, for so many images and without other processes."""
    image = next(iter(data.plain_batches(1, images=1))).to(device)
    output = answer(image.expand(images, *image.shape[1:]).clone())
    torch.autograd.backward(torch.stack([each.sum() for each in tensors(output) if each.requires_grad]).sum())
