"""One score a channel: from a criterion that scores filters, or from what each of their weights matters for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup, FilterCriterion, NormScaleCriterion, normalization_scales

if TYPE_CHECKING:
    from compressor.core import FloatArray


def channel_scores(
    module: nn.Module, groups: Sequence[ChannelGroup], criterion: FilterCriterion | NormScaleCriterion
) -> Mapping[str, FloatArray]:
    """Group name -> score (C,): the mean of the criterion over the filters that write the channel, or over the scales
    of all normalisations that it passes; groups that none scales are absent.

    For a group that one layer writes, this is the criterion itself. Frozen groups have none: nobody asks.
    """
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    scales = set(normalization_scales(dict(module.named_parameters())))
    value = criterion.value if isinstance(criterion, NormScaleCriterion) else criterion
    result: dict[str, FloatArray] = {}
    with torch.no_grad():
        for group in (each for each in groups if each.frozen is None):
            passed = [slot for slot in group.slots if slot.tensor in scales]
            per_slot = []
            for slot in passed if isinstance(criterion, NormScaleCriterion) else group.writers():
                tensor = tensors[slot.tensor].detach().double().movedim(slot.dim, 0)
                per_row = value(tensor.reshape(len(tensor), -1)).numpy()
                per_slot.append(per_row[slot.positions].mean(axis=1))
            if per_slot:
                result[group.name] = np.mean(per_slot, axis=0)
    return result


def channel_scores_from_gates(groups: Sequence[ChannelGroup], gates: Mapping[str, Tensor]) -> Mapping[str, FloatArray]:
    """Group name -> score (C,): what all gates that a channel passes matter for together. `gates`: scale -> (N,).

    Groups whose channels pass none are absent.
    """
    result: dict[str, FloatArray] = {}
    for group in (each for each in groups if each.frozen is None):
        passed = [slot for slot in group.slots if slot.tensor in gates]
        per_slot = [gates[slot.tensor].double().numpy()[slot.positions].sum(axis=1) for slot in passed]
        if per_slot:
            result[group.name] = np.sum(per_slot, axis=0)
    return result


def channel_scores_from_entries(
    groups: Sequence[ChannelGroup], entries: Mapping[str, Tensor], signed: bool
) -> Mapping[str, FloatArray]:
    """Group name -> score (C,): what all weights and biases that write a channel matter for together, `|sum entries|`,
    or the sum itself where scores are `signed`.

    Layers that share their channels share one gate behind each of them, for these channels go from all of them at once.
    To first order that changes the loss, or the gradient flow, by the derivative to this gate: the signed sum over the
    layers, whose parts may cancel, and not the sum of their magnitudes, which is what gates of their own would give. It
    is a sum and no mean, so that what many layers write counts for more when all groups are compared. The released code
    of CroP and SNAP has a gate for each layer and lets each keep channels of its own.

    `entries`: parameter -> what each entry matters for; biases that are absent count nothing.
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
