"""Dead channels: all weights that read them are zero, or all parameters that write them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup, PrunePlan, Role, TensorSlot

if TYPE_CHECKING:
    from compressor.core import BoolArray


def dead_channels(module: nn.Module, groups: Sequence[ChannelGroup]) -> PrunePlan:
    """Plan the removal of every dead channel; each group keeps at least one channel.

    A channel is dead when all weights that read it are zero, or all parameters that write, scale or shift it. The
    entries of a dead channel are counted as zero in turn, until no more channels die.

    Args:
        module: The module. It is not changed.
        groups: The groups of its channels.

    Returns:
        The plan; groups without dead channels are absent.
    """
    tensors = {name: parameter.detach() != 0 for name, parameter in module.named_parameters()}
    free = [group for group in groups if group.frozen is None]
    alive = {group.name: np.ones(group.size, dtype=np.bool_) for group in free}
    while True:
        dying = False
        for group in free:
            removed = alive[group.name] & ~(
                _any(tensors, group, "reader") & _any(tensors, group, "writer", "per_channel")
            )
            if removed.any():
                dying = True
                alive[group.name] &= ~removed
                for slot in _known(tensors, group):
                    tensors[slot.tensor].index_fill_(slot.dim, torch.from_numpy(slot.positions[removed].reshape(-1)), 0)
        if not dying:
            break
    for kept in alive.values():
        if not kept.any():
            kept[0] = True
    return PrunePlan({name: kept for name, kept in alive.items() if not kept.all()})


def _any(tensors: Mapping[str, Tensor], group: ChannelGroup, *roles: Role) -> BoolArray:
    """(C,): whether some parameter in these roles is not zero for the channel.

    True where no such parameter exists, because nothing is known then.
    """
    nonzero = [
        tensors[slot.tensor].movedim(slot.dim, 0).flatten(1).any(dim=1).numpy()[slot.positions].any(axis=1)
        if tensors[slot.tensor].ndim > 1
        else tensors[slot.tensor].numpy()[slot.positions].any(axis=1)
        for slot in _known(tensors, group)
        if slot.role in roles
    ]
    return np.any(nonzero, axis=0) if nonzero else np.ones(group.size, dtype=np.bool_)


def _known(tensors: Mapping[str, Tensor], group: ChannelGroup) -> list[TensorSlot]:
    return [slot for slot in group.slots if slot.tensor in tensors]
