"""Inputs to run a model on, where its files give none."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.core import Data, LoadedModel, ModelInput
from compressor.file_module import shared_inputs
from compressor.tensors import join_batches


def example_inputs(model: LoadedModel, images: int = 1, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Make seeded random inputs: normal numbers, or integers within the input's range.

    Args:
        model: The model, whose spec has the shapes and types.
        images: Batch size. An input without a batch dimension has its own shape whatever this is.
        seed: The same seed gives the same numbers.

    Returns:
        One tensor for each input, with the batch in its batch dimension.
    """
    random = torch.Generator().manual_seed(seed)
    return tuple(_noise(model_input, images, random) for model_input in model.spec.inputs)


def calibration_inputs(model: LoadedModel, data: Data | None, images: int) -> tuple[Tensor, ...]:
    """Take training images, or `example_inputs` where there are none.

    Args:
        model: The model.
        data: The data, if there are any.
        images: Number of images.

    Returns:
        One tensor (images, ...) for each input.
    """
    if data is None:
        return example_inputs(model, images)
    return join_batches(data.calibration_batches(images, images=images), shared_inputs(model.module))


def _noise(like: ModelInput, batch: int, random: torch.Generator) -> Tensor:
    shape = list(like.shape)
    if like.batch_dim is not None:
        shape.insert(like.batch_dim, batch)
    if like.integer_range is None:
        return torch.randn(shape, generator=random)
    low, high = like.integer_range
    return torch.randint(low, high + 1, shape, generator=random).to(getattr(torch, like.dtype))
