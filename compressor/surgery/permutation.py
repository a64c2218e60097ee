"""Channels in another order: every tensor of a group follows, and the module computes what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import Certificate, ChannelGroup, OptimizerState
from compressor.execution.copies import copy_module
from compressor.surgery.certificate import same_outputs, with_nonzero_params

if TYPE_CHECKING:
    from compressor.core import IntArray, KeptIndices

Orders = Mapping[str, "IntArray"]
"""group name -> (C,): place i gets what was channel order[i]; groups that stay as they are are absent."""


def permute_channels(module: nn.Module, groups: Sequence[ChannelGroup], orders: Orders) -> nn.Module:
    """A copy of `module` with the channels of these groups in their new order. `module` is left as it is."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    moved: dict[int, object] = {}
    for name, dims in channel_positions(groups, orders, tensors).items():
        data = _taken(tensors[name].detach(), dims)
        moved[id(tensors[name])] = (
            nn.Parameter(data, tensors[name].requires_grad) if isinstance(tensors[name], nn.Parameter) else data
        )
    return copy_module(module, moved)  # by identity, so that a tensor with several names stays one tensor


def permute_optimizer_state(
    momentum: OptimizerState, groups: Sequence[ChannelGroup], orders: Orders, module: nn.Module
) -> OptimizerState:
    """What an optimizer remembers, in the new order; single numbers, such as Adam's step, as they are."""
    index = channel_positions(groups, orders, module.state_dict(keep_vars=True))
    return {
        name: {key: _taken(value, index.get(name, {})) if value.ndim else value for key, value in remembered.items()}
        for name, remembered in momentum.items()
    }


def _taken(tensor: Tensor, dims: Mapping[int, IntArray]) -> Tensor:
    for dim, index in dims.items():
        tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
    return tensor


def channel_positions(
    groups: Sequence[ChannelGroup], orders: Orders, tensors: Mapping[str, Tensor]
) -> dict[str, dict[int, IntArray]]:
    """tensor -> dimension -> the entry that each place gets."""
    found: dict[str, dict[int, IntArray]] = {}
    for group in groups:
        order = orders.get(group.name)
        if order is not None:
            for slot in group.slots:
                dims = found.setdefault(slot.tensor, {})
                index = dims.setdefault(slot.dim, np.arange(tensors[slot.tensor].shape[slot.dim]))
                index[slot.positions] = slot.positions[order]
    return found


def permute_kept(before: KeptIndices, groups: Sequence[ChannelGroup], orders: Orders, module: nn.Module) -> KeptIndices:
    """Kept indices in the original model's numbering, in the order in which the reordered module has them."""
    result = {name: dict(dims) for name, dims in before.items()}
    for name, dims in channel_positions(groups, orders, module.state_dict(keep_vars=True)).items():
        for dim, index in dims.items():
            now = before.get(name, {}).get(dim) or range(len(index))
            result.setdefault(name, {})[dim] = tuple(now[each] for each in index.tolist())
    return result


def permutable_groups(module: nn.Module, groups: Sequence[ChannelGroup], *inputs: Tensor) -> tuple[ChannelGroup, ...]:
    """Those of the groups whose channels may change places, found by trial.

    Channels of one group may go through different operators on their way (half of them through an activation, say), so
    that they go together but are not interchangeable. All groups are shuffled at once; where the answer changes, the
    halves are tried on their own.
    """
    return _movable(with_nonzero_params(module), groups, inputs)


def _movable(module: nn.Module, groups: Sequence[ChannelGroup], inputs: Sequence[Tensor]) -> tuple[ChannelGroup, ...]:
    random = np.random.default_rng(0)
    orders = {group.name: random.permutation(group.size) for group in groups}
    if same_outputs(module, permute_channels(module, groups, orders), *inputs).ok:
        return tuple(groups)
    middle = len(groups) // 2
    halves = (groups[:middle], groups[middle:]) if middle else ()
    return tuple(group for half in halves for group in _movable(module, half, inputs))


def certify_permutation(
    module: nn.Module, groups: Sequence[ChannelGroup], orders: Orders, *inputs: Tensor
) -> Certificate:
    """That the module in its new order gives the same answers, in float64.

    One that answers with zeros everywhere would agree with anything, so its all-zero tensors get noise beforehand.
    """
    proof = same_outputs(module, permute_channels(module, groups, orders), *inputs)
    if not proof.ok and proof.max_abs_error == 0.0:
        alive = with_nonzero_params(module)
        proof = same_outputs(alive, permute_channels(alive, groups, orders), *inputs)
    return proof
