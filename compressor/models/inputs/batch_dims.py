"""Finds the batch dimension of a user's example inputs: the one along which samples are independent.

With a and b two samples along dimension d, d is a batch dimension where `f(cat(a, b)) = cat(f(a), f(b))`. In most
networks it is the first; in recurrent networks and transformers often the second, after time; graphs have none. Outputs
that are a single number, such as a loss, say nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.core import BatchDims, ModelInput
from compressor.errors import ModelError
from compressor.execution.central_draws import CentralDraws
from compressor.execution.copies import copy_module
from compressor.execution.differences import is_close
from compressor.execution.run_copy import forward_error
from compressor.tensors import tree_leaves

BatchDimSetting = Literal["auto"] | int | Sequence[int | None] | None
"""The setting of a recipe: one dimension for all inputs, or one for each; None: no batch dimension; auto: find it."""

RELATIVE_TOLERANCE = 1e-3  # of the largest output: sums over a larger batch are rounded differently
MAX_DIMS = 3  # dimensions of one input that are tried
MAX_COMBINATIONS = 40  # of the dimensions of several inputs


def find_batch_dims(module: nn.Module, examples: Sequence[Tensor]) -> tuple[BatchDims, str | None]:
    """Find the batch dimension of every input by running samples alone and together.

    Args:
        module: The module in eval mode. Only copies of it run.
        examples: One tensor for each input, with its batch.

    Returns:
        The dimensions, and a note if they are not all 0 or if no dimension behaves as a batch.
    """
    first = (0,) * len(examples)
    for dims in _candidates(examples):
        if _is_batch(module, examples, dims):
            return dims, None if dims == first else f"batch dimensions found by running samples: {_words(dims)}"
    sizes = {example.shape[0] if example.ndim else 0 for example in examples}
    if len(sizes) == 1 and 0 not in sizes and _runs(module, examples):
        doubt = "no dimension behaves as a batch: outputs of samples together differ from outputs of each alone"
        return first, f"{doubt}; dimension 0 is used; set model.batch_dim to change it"
    if forward_error(module, *examples) is not None:
        return first, None  # the analysis reports it, with the line that fails
    none: BatchDims = (None,) * len(examples)
    return none, "the inputs have no batch dimension and are used as one sample; set model.batch_dim to change this"


def _words(dims: BatchDims) -> str:
    return ", ".join("none" if dim is None else str(dim) for dim in dims)


def _candidates(examples: Sequence[Tensor]) -> Iterator[BatchDims]:
    """Yield the same dimension for all inputs, from 0; then every combination, with None for some inputs."""
    least = min(example.ndim for example in examples)
    alike = [(dim,) * len(examples) for dim in range(min(least, MAX_DIMS))]
    yield from alike
    choices = [(*range(min(example.ndim, MAX_DIMS)), None) for example in examples]
    others = (dims for dims in product(*choices) if dims not in alike and any(dim is not None for dim in dims))
    if len(examples) > 1:
        yield from (dims for _, dims in zip(range(MAX_COMBINATIONS), others, strict=False))


def _is_batch(module: nn.Module, examples: Sequence[Tensor], dims: BatchDims) -> bool:
    try:
        one = [_sample(example, dim) for example, dim in zip(examples, dims, strict=True)]
        other = [sample if dim is None else _other_sample(sample) for sample, dim in zip(one, dims, strict=True)]
        both = [a if dim is None else torch.cat([a, b], dim) for a, b, dim in zip(one, other, dims, strict=True)]
        alone = [_answer(module, one), _answer(module, other)]
        together = _answer(module, both)
    except Exception:  # an empty dimension has no samples; a network may raise anything for inputs that are no batch
        return False
    if len({len(leaves) for leaves in (*alone, together)}) != 1:
        return False
    joined = [_is_joined(*leaves) for leaves in zip(*alone, together, strict=True) if leaves[-1].ndim]
    return bool(joined) and all(joined)


def _sample(example: Tensor, dim: int | None) -> Tensor:
    return example if dim is None else example.narrow(dim, 0, 1)


def _other_sample(sample: Tensor) -> Tensor:
    """Return other values of the same type: normal numbers, or the same integers in reverse order."""
    if sample.is_floating_point():
        return torch.randn(sample.shape, generator=torch.Generator().manual_seed(0)).to(sample.dtype)
    return sample.flatten().flip(0).reshape(sample.shape)


def _is_joined(a: Tensor, b: Tensor, both: Tensor) -> bool:
    """Return whether `both` is the concatenation of `a` and `b` along some dimension."""
    for dim in range(both.ndim):
        try:
            joined = torch.cat([a, b], dim)
        except (RuntimeError, IndexError):  # the other sizes differ, or there are fewer dimensions
            continue
        if joined.shape == both.shape:
            return is_close(both, joined, RELATIVE_TOLERANCE)
    return False


def _runs(module: nn.Module, examples: Sequence[Tensor]) -> bool:
    """Return whether the module runs with one sample along dimension 0, and with two."""
    one = [example.narrow(0, 0, 1) for example in examples]
    two = [torch.cat([sample, sample]) for sample in one]
    return forward_error(module, *one) is None and forward_error(module, *two) is None


def _answer(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.inference_mode(), CentralDraws():  # type: ignore[no-untyped-call]
        return tree_leaves(copy_module(module)(*inputs))


def batch_dims_of(examples: Sequence[Tensor], setting: BatchDimSetting, where: str) -> BatchDims:
    """Return the batch dimension of each input as a recipe sets it.

    Args:
        examples: One tensor for each input, with its batch.
        setting: The setting of the recipe; not auto.
        where: The place that the message names.

    Returns:
        The dimensions.

    Raises:
        ModelError: An example has no such dimension, or there are more or fewer dimensions than inputs.
    """
    dims = _per_input(setting, len(examples))
    for dim, example in zip(dims, examples, strict=True):
        if dim is not None and dim >= example.ndim:
            problem = f"model.batch_dim is {dim}, but an input has the shape {tuple(example.shape)}"
            raise ModelError("model-input/no-such-batch-dim", where, problem, "set a dimension that it has, from 0")
    return dims


def with_batch_dim(inputs: Sequence[ModelInput], setting: BatchDimSetting) -> list[ModelInput]:
    """Set the batch dimension of inputs as a recipe says.

    Args:
        inputs: The inputs, with shapes without the batch.
        setting: The setting of the recipe; auto leaves the inputs as they are.

    Returns:
        The inputs with their batch dimensions.

    Raises:
        ModelError: The dimension lies beyond the shape, or there are more or fewer dimensions than inputs.
    """
    if setting == "auto":
        return list(inputs)
    dims = _per_input(setting, len(inputs))
    for like, dim in zip(inputs, dims, strict=True):
        if dim is not None and dim > len(like.shape):
            problem = f"model.batch_dim is {dim}, but the shape without the batch is {like.shape}"
            hint = f"set a dimension from 0 to {len(like.shape)}"
            raise ModelError("model-input/no-such-batch-dim", like.name, problem, hint)
    return [replace(like, batch_dim=dim) for like, dim in zip(inputs, dims, strict=True)]


def _per_input(setting: BatchDimSetting, count: int) -> BatchDims:
    """Repeat a single dimension for all inputs."""
    assert not isinstance(setting, str), "auto is found by trying"
    dims = (setting,) * count if setting is None or isinstance(setting, int) else tuple(setting)
    if len(dims) != count:
        problem = f"it has {len(dims)} dimensions, but the model has {count} inputs"
        hint = "give one dimension, or one for each input"
        raise ModelError("model-input/batch-dim-count", "model.batch_dim", problem, hint)
    return dims
