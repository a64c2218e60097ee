"""One score a channel: from a criterion that scores filters, or from what each of their weights matters for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup, Filters

if TYPE_CHECKING:
    from compressor.core import FloatArray


def scores(module: nn.Module, groups: Sequence[ChannelGroup], criterion: Filters) -> Mapping[str, FloatArray]:
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


def scores_of_entries(
    groups: Sequence[ChannelGroup], entries: Mapping[str, Tensor], signed: bool
) -> Mapping[str, FloatArray]:
    """Group name -> score (C,): what all weights and biases that write a channel matter for together, `|sum entries|`,
    or the sum itself where scores are `signed`.

    It is the derivative to a gate that scales the channel behind every layer that writes it, which these layers share.
    `entries`: parameter -> what each entry matters for; parameters that are absent count nothing.
    """
    result: dict[str, FloatArray] = {}
    for group in (each for each in groups if each.frozen is None):
        total_C = np.zeros(group.size)
        for slot in group.writers():
            rows_NK = entries[slot.tensor].double().movedim(slot.dim, 0).flatten(1)
            total_C += rows_NK.sum(dim=1).numpy()[slot.positions].sum(axis=1)
            bias = slot.tensor.removesuffix("weight") + "bias"
            if bias in entries and bias != slot.tensor:
                total_C += entries[bias].double().numpy()[slot.positions].sum(axis=1)
        result[group.name] = total_C if signed else np.abs(total_C)
    return result
