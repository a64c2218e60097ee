"""Sizes that an exported file leaves open besides the batch: the length of a text, the height and width of an image.

A size may be open if the module runs with a smaller one; equal sizes are tried together first. torch.export then finds
out which of them the network fixes all the same, and which have to be equal. It numbers them; here they are named after
the first input that has them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor.core import BatchDims
from compressor.execution.copies import copy_module

Place = tuple[int, int]
"""number of an input and one of its dimensions"""


def find_open_sizes(module: nn.Module, batch: Sequence[Tensor], dims: BatchDims) -> frozenset[Place]:
    """Find the dimensions in which a module takes smaller inputs.

    Args:
        module: The module; copies of it run.
        batch: A tensor for each input.
        dims: The batch dimension of each input, None for an input without one.

    Returns:
        The dimensions, without the batch's.
    """
    equal: dict[int, list[Place]] = defaultdict(list)
    for number, (tensor, own) in enumerate(zip(batch, dims, strict=True)):
        for dim, size in enumerate(tensor.shape):
            if dim != own and size > 1:
                equal[size].append((number, dim))

    def runs(places: Sequence[Place]) -> bool:
        try:
            with torch.no_grad():
                copy_module(module)(*with_smaller_sizes(batch, places))
        except Exception:  # a forward may raise anything at sizes that it does not take
            return False
        return True

    together = [places for places in equal.values() if runs(places)]
    alone = [[place] for places in equal.values() if places not in together and len(places) > 1 for place in places]
    return frozenset(place for places in (*together, *filter(runs, alone)) for place in places)


def with_smaller_sizes(batch: Sequence[Tensor], places: Iterable[Place]) -> tuple[Tensor, ...]:
    """Cut a third off some sizes.

    Args:
        batch: A tensor for each input.
        places: The dimensions.

    Returns:
        The smaller batch.
    """
    smaller = list(batch)
    for number, dim in places:
        size = smaller[number].shape[dim]
        smaller[number] = smaller[number].narrow(dim, 0, max(1, size - max(1, size // 3)))
    return tuple(smaller)


def name_free_sizes(model: ir.Model, dims: BatchDims) -> dict[str, list[Place]]:
    """Name free sizes INPUT_dim_NUMBER, everywhere in a file.

    Args:
        model: The file; it is changed.
        dims: The batch dimension of each input, None for an input without one.

    Returns:
        Name -> the dimensions of inputs that have this size.
    """
    names: dict[str, str] = {}
    places: dict[str, list[Place]] = defaultdict(list)
    for number, (value, own) in enumerate(zip(model.graph.inputs, dims, strict=True)):
        for dim, size in enumerate(value.shape or ()):
            if dim != own and isinstance(size, ir.SymbolicDim):
                name = names.setdefault(str(size.value), f"{value.name}_dim_{dim}")
                places[name].append((number, dim))
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    for value in values:
        for dim, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None and value.shape is not None:
                value.shape[dim] = ir.SymbolicDim(_renamed(size.value, names))
    return places


def _renamed(size: str, names: Mapping[str, str]) -> str:
    """A size, which may be a formula of others."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size)
