"""Inputs whose values have a meaning: categories of columns with different counts, offsets, what a logarithm takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.core import ModelInput
from compressor.execution.copies import copy_module
from compressor.execution.run_copy import run_seeded
from compressor.file_module import arranged
from compressor.random_samples import random_samples
from compressor.tensors import tree_leaves

TRIED_NUMBERS, TRIED_SAMPLES = 1024, 32  # at most; of a table so many that an impossible category is among them
HELD_SAMPLES = 16
HELD_NUMBERS = 2**20  # of one input


def hold_valid_values(
    module: nn.Module, inputs: Sequence[ModelInput], tensors: Sequence[Tensor]
) -> tuple[ModelInput, ...]:
    """Let inputs hold the values of an example, if the model has finite outputs on it and not on random inputs.

    Args:
        module: The module that takes them.
        inputs: Its inputs, as the example shows them.
        tensors: The example, a batch for each input.

    Returns:
        The inputs.
    """
    count = min(TRIED_SAMPLES, TRIED_NUMBERS // max(1, *(math.prod(like.shape) for like in inputs)))
    noise = random_samples(inputs, max(count, 2), torch.Generator().manual_seed(0))
    dims = tuple(like.batch_dim for like in inputs)
    if _has_finite_outputs(module, arranged(noise, dims)) or not _has_finite_outputs(module, tensors):
        return tuple(inputs)
    samples = [
        tensor if dim is None else tensor.movedim(dim, 0)[:HELD_SAMPLES]
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    if max(tensor.numel() for tensor in samples) > HELD_NUMBERS:
        return tuple(inputs)
    return tuple(
        replace(like, values=tuple(tensor.flatten().tolist())) for like, tensor in zip(inputs, samples, strict=True)
    )


def _has_finite_outputs(module: nn.Module, inputs: Sequence[Tensor]) -> bool:
    copied = copy_module(module)
    try:
        outputs = tree_leaves(run_seeded(copied, *inputs))
    except Exception:  # a forward may raise anything
        return False
    return all(bool(output.isfinite().all()) for output in outputs)
