"""Batches: how many samples they have, how they are joined and cut, and where a module answers with its samples.

`batch_dims` is that of the data: the batch dimension of each input, None for an input that all samples share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from compressor.core import BatchDims
from compressor.execution.copies import copy_module
from compressor.tensors import Inputs, as_arguments, call_module, tree_leaves

Column = TypeVar("Column", Tensor, tuple[Tensor, ...])
"""An input of a batch, or of several batches."""


def with_dims(columns: Sequence[Column], batch_dims: BatchDims | None) -> list[tuple[Column, int | None]]:
    """Pair what there is of each input, or output, with its batch dimension.

    Args:
        columns: One entry for each input.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        The pairs.
    """
    return list(zip(columns, batch_dims or (0,) * len(columns), strict=True))


def batch_length(inputs: Inputs, batch_dims: BatchDims | None = None) -> int:
    """Count the samples of a batch.

    Args:
        inputs: The batch.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        The number of samples; 1 where no input has a batch dimension.
    """
    pairs = with_dims(as_arguments(inputs), batch_dims)
    return next((tensor.shape[dim] for tensor, dim in pairs if dim is not None), 1)


def join_batches(batches: Iterable[Inputs], batch_dims: BatchDims | None = None) -> tuple[Tensor, ...]:
    """Join all samples of some batches.

    Args:
        batches: The batches.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        One tensor for each input of the module.
    """
    columns = list(zip(*map(as_arguments, batches), strict=True))
    return tuple(parts[0] if dim is None else torch.cat(parts, dim) for parts, dim in with_dims(columns, batch_dims))


def samples_between(
    columns: Sequence[Tensor], first: int, stop: int, batch_dims: BatchDims | None = None
) -> tuple[Tensor, ...]:
    """Take some samples of joined batches.

    Args:
        columns: What `join_batches` returns.
        first: The first sample.
        stop: The sample to stop before; there may be fewer.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        One tensor for each input of the module.
    """
    return tuple(
        column if dim is None else column.narrow(dim, first, min(stop, column.shape[dim]) - first)
        for column, dim in with_dims(columns, batch_dims)
    )


def samples_first(columns: Sequence[Tensor], batch_dims: BatchDims | None = None) -> list[Tensor]:
    """Move the samples to the first dimension.

    Args:
        columns: One tensor for each input.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        The tensors of the inputs that have a batch dimension.
    """
    return [column.movedim(dim, 0) for column, dim in with_dims(columns, batch_dims) if dim is not None]


def output_batch_dims(module: nn.Module, inputs: Inputs, batch_dims: BatchDims | None = None) -> BatchDims | None:
    """Find where the tensors that a module returns have the samples, by running two and three.

    A single one would not do, because `squeeze` drops its dimension.

    Args:
        module: The module in eval mode. Only a copy of it runs.
        inputs: A batch of it.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        The dimension for each tensor, None where its size is not that of the samples, as for a mean over them. None in
        all where the module does not run on so many samples: the first dimension is as good as any.
    """
    sample = samples_between(as_arguments(inputs), 0, 1, batch_dims)
    module = copy_module(module)
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=()):
            two, three = (
                tree_leaves(call_module(module, join_batches([sample] * count, batch_dims))) for count in (2, 3)
            )
    except Exception:  # a user's network may raise anything
        return None
    return tuple(map(_grown_dim, two, three)) if len(two) == len(three) else None


def _grown_dim(two: Tensor, three: Tensor) -> int | None:
    sizes = enumerate(zip(two.shape, three.shape, strict=False))
    return next((dim for dim, (a, b) in sizes if a and 3 * a == 2 * b), None)
