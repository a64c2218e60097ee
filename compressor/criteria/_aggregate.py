"""From scores of filters, weights or gates to one score per channel of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup, TensorSlot, normalization_scales
from compressor.tensors import named_tensors

if TYPE_CHECKING:
    from compressor.core import FloatArray

RowFormula = Callable[[Tensor], Tensor]
"""rows (N, K), one per filter, in float64 -> scores (N,)"""


def mean_over_writers(
    module: nn.Module, groups: Sequence[ChannelGroup], formula: RowFormula
) -> Mapping[str, FloatArray]:
    """Average a score of filters over the filters that write each channel.

    Args:
        module: The network.
        groups: The groups of its channels; frozen groups get no scores.
        formula: The score of a filter.

    Returns:
        Group name -> scores (C,).
    """
    return _mean_over_slots(module, groups, formula, lambda group: group.writers())


def mean_over_norms(module: nn.Module, groups: Sequence[ChannelGroup], formula: RowFormula) -> Mapping[str, FloatArray]:
    """Average a score of norm scales over the normalizations that each channel passes through.

    Args:
        module: The network.
        groups: The groups of its channels; frozen groups get no scores.
        formula: The score of a scale, which is a row (N, 1).

    Returns:
        Group name -> scores (C,). Groups whose channels pass no normalization are absent.
    """
    scales = set(normalization_scales(dict(module.named_parameters())))
    return _mean_over_slots(
        module, groups, formula, lambda group: [slot for slot in group.slots if slot.tensor in scales]
    )


def _mean_over_slots(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    formula: RowFormula,
    slots_of: Callable[[ChannelGroup], Iterable[TensorSlot]],
) -> Mapping[str, FloatArray]:
    tensors = named_tensors(module)
    scores: dict[str, FloatArray] = {}
    with torch.no_grad():
        for group in _free(groups):
            per_slot = []
            for slot in slots_of(group):
                tensor = tensors[slot.tensor].detach().double().movedim(slot.dim, 0)
                rows_N = formula(tensor.reshape(len(tensor), -1)).numpy()
                per_slot.append(rows_N[slot.positions].mean(axis=1))
            if per_slot:
                scores[group.name] = np.mean(per_slot, axis=0)
    return scores


def sum_over_norms(groups: Sequence[ChannelGroup], gates: Mapping[str, Tensor]) -> Mapping[str, FloatArray]:
    """Sum the scores of all gates that each channel passes through.

    Args:
        groups: Groups of channels; frozen groups get no scores.
        gates: Name of a norm scale -> scores (N,) of the gates behind that normalization.

    Returns:
        Group name -> scores (C,). Groups whose channels pass no gate are absent.
    """
    scores: dict[str, FloatArray] = {}
    for group in _free(groups):
        passed = [slot for slot in group.slots if slot.tensor in gates]
        per_slot = [gates[slot.tensor].double().numpy()[slot.positions].sum(axis=1) for slot in passed]
        if per_slot:
            scores[group.name] = np.sum(per_slot, axis=0)
    return scores


def sum_over_writers(
    groups: Sequence[ChannelGroup], entries: Mapping[str, Tensor], signed: bool
) -> Mapping[str, FloatArray]:
    """Sum the scores of all weights and biases that write each channel: `|sum entries|`.

    Layers that share their channels lose them together, so they share one gate behind each of them. To first order
    removal changes the loss, or the gradient flow, by the derivative with respect to this gate. That is the signed sum
    over the layers, whose parts may cancel, and not the sum of magnitudes that one gate per layer would give. It is a
    sum, not a mean, so that channels that many layers write count for more when all groups are compared. The released
    code of CroP and SNAP has one gate per layer and lets every layer keep its own channels.

    Args:
        groups: Groups of channels; frozen groups get no scores.
        entries: Parameter name -> score of each entry; absent biases count as zero.
        signed: Whether to return the sums themselves instead of their magnitudes.

    Returns:
        Group name -> scores (C,).
    """
    scores: dict[str, FloatArray] = {}
    for group in _free(groups):
        total_C = np.zeros(group.size)
        for slot in group.writers():
            rows_NK = entries[slot.tensor].double().movedim(slot.dim, 0).flatten(1)
            total_C += rows_NK.sum(dim=1).numpy()[slot.positions].sum(axis=1)
            bias = slot.tensor.removesuffix("weight") + "bias"
            if bias in entries and bias != slot.tensor:
                total_C += entries[bias].double().numpy()[slot.positions].sum(axis=1)
        scores[group.name] = total_C if signed else np.abs(total_C)
    return scores


def _free(groups: Sequence[ChannelGroup]) -> Iterable[ChannelGroup]:
    return (group for group in groups if group.frozen is None)
