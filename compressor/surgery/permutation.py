"""Channels in another order: every tensor of a group follows, and the module computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import Certificate, ChannelGroup, OptimizerState
from compressor.execution.copies import copy_module
from compressor.surgery.certificate import REORDERED, proof_of_nonzero, same_outputs, with_nonzero_params
from compressor.surgery.output_comparison import OutputComparison
from compressor.tensors import named_tensors

if TYPE_CHECKING:
    from compressor.core import IntArray, KeptIndices

Orders = Mapping[str, "IntArray"]
"""group name -> (C,): new channel i is the old channel order[i]. Groups whose order does not change are absent."""


def permute_channels(module: nn.Module, groups: Sequence[ChannelGroup], orders: Orders) -> nn.Module:
    """Copy a module with the channels of these groups in their new order.

    Args:
        module: The module. It is not changed.
        groups: The groups of its channels.
        orders: The new order of each group.

    Returns:
        The reordered copy.
    """
    tensors = named_tensors(module)
    reordered: dict[int, object] = {}
    for name, dims in channel_positions(groups, orders, tensors).items():
        data = _reordered(tensors[name].detach(), dims)
        reordered[id(tensors[name])] = (
            nn.Parameter(data, tensors[name].requires_grad) if isinstance(tensors[name], nn.Parameter) else data
        )
    return copy_module(module, reordered)  # by identity, so that a tensor with several names stays one tensor


def permute_optimizer_state(
    optimizer: OptimizerState, groups: Sequence[ChannelGroup], orders: Orders, module: nn.Module
) -> OptimizerState:
    """Reorder the state of an optimizer; single numbers, such as Adam's step, do not change.

    Args:
        optimizer: Its state: parameter name -> key -> tensor.
        groups: The groups of the module's channels.
        orders: The new order of each group.
        module: The module that the state belongs to.

    Returns:
        The reordered state.
    """
    index = channel_positions(groups, orders, named_tensors(module))
    return {
        name: {key: _reordered(value, index.get(name, {})) if value.ndim else value for key, value in values.items()}
        for name, values in optimizer.items()
    }


def _reordered(tensor: Tensor, dims: Mapping[int, IntArray]) -> Tensor:
    for dim, index in dims.items():
        tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
    return tensor


def channel_positions(
    groups: Sequence[ChannelGroup], orders: Orders, tensors: Mapping[str, Tensor]
) -> dict[str, dict[int, IntArray]]:
    """Translate orders of channels into orders of tensor entries.

    Args:
        groups: The groups of channels.
        orders: The new order of each group.
        tensors: The module's tensors by name.

    Returns:
        Tensor name -> dimension -> (size,): the old index of every new entry.
    """
    positions: dict[str, dict[int, IntArray]] = {}
    for group in groups:
        order = orders.get(group.name)
        if order is not None:
            for slot in group.slots:
                dims = positions.setdefault(slot.tensor, {})
                index = dims.setdefault(slot.dim, np.arange(tensors[slot.tensor].shape[slot.dim]))
                index[slot.positions] = slot.positions[order]
    return positions


def permute_kept(before: KeptIndices, groups: Sequence[ChannelGroup], orders: Orders, module: nn.Module) -> KeptIndices:
    """Reorder kept indices as the module's channels are reordered.

    Args:
        before: Kept indices in the original model's numbering.
        groups: The groups of the module's channels.
        orders: The new order of each group.
        module: The module before the permutation.

    Returns:
        Kept indices in the original model's numbering, in the order of the reordered module.
    """
    result = {name: dict(dims) for name, dims in before.items()}
    for name, dims in channel_positions(groups, orders, named_tensors(module)).items():
        for dim, index in dims.items():
            indices = before.get(name, {}).get(dim) or range(len(index))
            result.setdefault(name, {})[dim] = tuple(indices[entry] for entry in index.tolist())
    return result


def permutable_groups(module: nn.Module, groups: Sequence[ChannelGroup], *inputs: Tensor) -> tuple[ChannelGroup, ...]:
    """Determine by trial which groups keep the outputs whatever order their channels have.

    Channels of one group may pass through different operators, half of them through an activation, say. They are
    removed together, but are not interchangeable. All groups are shuffled at once; where the outputs change, each half
    of the groups is tried on its own.

    Args:
        module: The module. It is not changed.
        groups: The groups of its channels.
        inputs: What it runs on.

    Returns:
        The groups whose channels may be permuted.
    """
    return _permutable(with_nonzero_params(module), groups, inputs)


def _permutable(
    module: nn.Module, groups: Sequence[ChannelGroup], inputs: Sequence[Tensor]
) -> tuple[ChannelGroup, ...]:
    random = np.random.default_rng(0)
    orders = {group.name: random.permutation(group.size) for group in groups}
    if same_outputs(module, permute_channels(module, groups, orders), *inputs).ok:
        return tuple(groups)
    middle = len(groups) // 2
    halves = (groups[:middle], groups[middle:]) if middle else ()
    return tuple(group for half in halves for group in _permutable(module, half, inputs))


def certify_permutation(
    module: nn.Module, groups: Sequence[ChannelGroup], orders: Orders, *inputs: Tensor
) -> Certificate:
    """Prove in float64 that a permutation keeps the outputs.

    A module whose outputs are zero everywhere agrees with anything, so its all-zero tensors get noise beforehand.

    Args:
        module: The module. It is not changed.
        groups: The groups of its channels.
        orders: The new order of each group.
        inputs: What it runs on.

    Returns:
        The certificate.
    """

    def _compare(net: nn.Module) -> OutputComparison:
        return OutputComparison(partial(copy_module, net), permute_channels(net, groups, orders), inputs)

    return proof_of_nonzero(_compare, module, REORDERED, inside=False)
