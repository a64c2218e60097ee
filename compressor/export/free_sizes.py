"""Sizes that an exported file leaves open besides the batch: the length of a text, the height and width of an image.

A size may be open if the module runs with a smaller one; equal sizes are tried together first. torch.export then finds
out which of them the network fixes all the same, and which have to be equal. It numbers them; here they are named after
the first input that has them. Where the code decides by a size, the trace has the branch of the example alone: the file
is therefore compared with the module at smaller and at larger sizes, and above the largest that the trace allows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor.core import BatchDims
from compressor.execution.run_copy import forward_error

Place = tuple[int, int]
"""number of an input and one of its dimensions"""

LARGEST = "compressor.largest_sizes"
"""Key in the `meta` of a graph's input: dimension -> the largest size for which the trace holds."""
MOST_ELEMENTS, MOST_POSITIONS = 2**22, 4096  # of an input, and along one dimension, that is made larger to compare


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
        return forward_error(module, *with_smaller_sizes(batch, places)) is None

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
    sizes = {(number, dim): batch[number].shape[dim] for number, dim in places}
    return _resized(batch, {place: max(1, size - max(1, size // 3)) for place, size in sizes.items()})


def note_largest_sizes(model: ir.Model, ranges: Mapping[object, object]) -> None:
    """Write into the inputs of a traced graph up to which sizes the trace holds.

    Args:
        model: The graph; the `meta` of its inputs changes.
        ranges: torch.export's ranges: symbol of a size -> a range with `upper`.
    """
    upper = {str(symbol): getattr(known, "upper", None) for symbol, known in ranges.items()}
    for value in model.graph.inputs:
        sizes = ((dim, upper.get(str(getattr(size, "value", size)))) for dim, size in enumerate(value.shape or ()))
        value.meta[LARGEST] = {dim: int(most) for dim, most in sizes if most is not None and _is_finite(most)}


def in_other_sizes(
    module: nn.Module, batch: Sequence[Tensor], dims: BatchDims, model: ir.Model, free: Mapping[str, Sequence[Place]]
) -> list[tuple[Tensor, ...]]:
    """Make inputs of other sizes, with which a file is compared.

    Args:
        module: The module, of which copies run.
        batch: A tensor for each input.
        dims: The batch dimension of each input, None for an input without one.
        model: The graph, whose inputs `note_largest_sizes` described.
        free: Name of a free size -> its dimensions.

    Returns:
        The batch with all free sizes smaller, and one sample of each larger size that the module takes.
    """
    if not free:
        return []
    one = [tensor if dim is None else tensor.narrow(dim, 0, 1) for tensor, dim in zip(batch, dims, strict=True)]
    places = list(chain.from_iterable(free.values()))
    sizes = {(number, dim): batch[number].shape[dim] for number, dim in places}
    larger = [{place: times * size + more for place, size in sizes.items()} for times, more in ((2, 0), (2, 1), (4, 0))]
    for own in free.values():
        number, dim = own[0]
        if (most := model.graph.inputs[number].meta.get(LARGEST, {}).get(dim)) is not None:
            larger += [dict.fromkeys(own, most + 1), dict.fromkeys(own, 2 * most)]
    candidates = [_resized(one, wanted) for wanted in larger if max(wanted.values()) <= MOST_POSITIONS]
    small = (inputs for inputs in candidates if max(tensor.numel() for tensor in inputs) <= MOST_ELEMENTS)
    return [with_smaller_sizes(batch, places), *(inputs for inputs in small if forward_error(module, *inputs) is None)]


def _is_finite(size: object) -> bool:
    return getattr(size, "is_Integer", False) or isinstance(size, int)


def _resized(batch: Sequence[Tensor], sizes: Mapping[Place, int]) -> tuple[Tensor, ...]:
    """Cut values off, or append values of other positions, in random order and scaled: what is lost must be seen."""
    resized, random = list(batch), torch.Generator().manual_seed(0)
    for (number, dim), size in sizes.items():
        tensor = resized[number]
        length = tensor.shape[dim]
        index = torch.arange(size)
        index[length:] = torch.randint(length, (max(0, size - length),), generator=random)
        resized[number] = tensor.index_select(dim, index)
        if tensor.is_floating_point():
            scale = torch.ones(size)
            scale[length:] += torch.rand(max(0, size - length), generator=random) - 0.5
            resized[number] *= scale.view(-1, *[1] * (tensor.ndim - dim - 1))
    return tuple(resized)


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
