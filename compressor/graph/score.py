"""One score a channel from a criterion that scores filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from compressor.core import ChannelGroup, Criterion

if TYPE_CHECKING:
    from compressor.core import FloatArray


def scores(module: nn.Module, groups: Sequence[ChannelGroup], criterion: Criterion) -> Mapping[str, FloatArray]:
    """Group name -> score (C,): the mean of the criterion over the filters that write the channel.

    For a group that one layer writes, this is the criterion itself. Frozen groups have none: nobody asks.
    """
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    result: dict[str, FloatArray] = {}
    with torch.no_grad():
        for group in (each for each in groups if each.frozen is None):
            per_writer = []
            for slot in group.writers():
                rows_NK = tensors[slot.tensor].detach().double().movedim(slot.dim, 0).flatten(1)
                per_filter = criterion(rows_NK).numpy()
                per_writer.append(per_filter[slot.positions].mean(axis=1))
            result[group.name] = np.mean(per_writer, axis=0)
    return result
