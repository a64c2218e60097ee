"""Random samples of a model's inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.core import ModelInput


def random_samples(inputs: Sequence[ModelInput], count: int, random: torch.Generator) -> tuple[Tensor, ...]:
    """Draw normal numbers, integers within an input's range, or some of the samples that the inputs hold.

    Args:
        inputs: The inputs of a model.
        count: Number of samples.
        random: Source of the random numbers.

    Returns:
        One tensor (count, ...) for each input; an input without a batch dimension has its own shape.
    """
    held = max((like.held_samples for like in inputs if like.batch_dim is not None), default=0)
    rows = torch.arange(count)
    if held:  # in the order of the example, because a network may need lengths that decrease
        rows = torch.randperm(held, generator=random)[rows % held].sort().values
    tensors = []
    for like in inputs:
        shape, dtype = like.shape if like.batch_dim is None else (count, *like.shape), getattr(torch, like.dtype)
        if like.values is not None:
            samples = torch.tensor(like.values, dtype=dtype).view(-1, *like.shape)
            tensors.append(samples[0] if like.batch_dim is None else samples[rows])
        elif like.integer_range is None:
            tensors.append(torch.randn(shape, generator=random).to(dtype))
        else:
            low, high = like.integer_range
            tensors.append(torch.randint(low, high + 1, shape, generator=random).to(dtype))
    return tuple(tensors)
