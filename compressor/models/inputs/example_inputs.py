"""Inputs to run a model on, where its files give none."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.batches import join_batches
from compressor.core import Data, LoadedModel, ModelSpec
from compressor.file_module import arranged
from compressor.random_samples import random_samples


def example_inputs(model: LoadedModel, images: int = 1, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Make seeded random inputs, see `random_samples`.

    Args:
        model: The model, whose spec has the shapes and types.
        images: Batch size. An input without a batch dimension has its own shape whatever this is.
        seed: The same seed gives the same numbers.

    Returns:
        One tensor for each input, with the batch in its batch dimension.
    """
    return spec_inputs(model.spec, images, seed=seed)


def spec_inputs(spec: ModelSpec, images: int = 1, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Make seeded random inputs of a model that is not loaded yet, as `example_inputs` does.

    Args:
        spec: The shapes and types.
        images: Batch size.
        seed: The same seed gives the same numbers.

    Returns:
        One tensor for each input, with the batch in its batch dimension.
    """
    samples = random_samples(spec.inputs, images, torch.Generator().manual_seed(seed))
    return tuple(arranged(samples, spec.batch_dims))


def calibration_inputs(model: LoadedModel, data: Data | None, images: int) -> tuple[Tensor, ...]:
    """Take training images, or `example_inputs` where there are none.

    Args:
        model: The model.
        data: The data, if there are any.
        images: Number of images.

    Returns:
        One tensor for each input, with the images in its batch dimension.
    """
    if data is None:
        return example_inputs(model, images)
    return join_batches(data.calibration_batches(images, images=images), data.batch_dims)
