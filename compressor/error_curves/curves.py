"""Error curves of channel groups, from samples without labels; see `error_curves.elimination`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import BatchDims, ChannelGroup, ErrorCurve
from compressor.error_curves.channel_maps import visit_channel_maps
from compressor.error_curves.elimination import eliminate
from compressor.error_curves.readers import MeasuredReader, measure_readers
from compressor.reconstruction.pair import Arguments

if TYPE_CHECKING:
    from compressor.core import FloatArray

UNSEEN = "no layer is seen that reads it: channels are compared by their energy"
FEW = "a reader has more input columns than there are samples: its error is a guess, give more samples"
CONSTANT = "its readers see constant values: any channel can be removed"


def error_curves(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Arguments],
    *,
    seed: int = 0,
    batch_dims: BatchDims | None = None,
) -> dict[str, ErrorCurve]:
    """Compute the error curve of every group that is not frozen.

    Args:
        module: The network, in eval mode.
        groups: The groups of its channels.
        batches: Samples without labels.
        seed: Of the sampled positions.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        Group name -> curve. Groups that no convolution or linear layer reads or writes are absent.
    """
    readers = measure_readers(module, groups, batches, seed=seed, batch_dims=batch_dims)
    return curves_of(readers, groups) | energy_curves(module, groups, readers, batches, batch_dims)


def curves_of(
    readers: Mapping[str, Sequence[MeasuredReader]],
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, FloatArray] = MappingProxyType({}),
) -> dict[str, ErrorCurve]:
    """Eliminate the channels of every group whose readers are seen.

    Args:
        readers: Group -> its measured readers.
        groups: The groups.
        scores: Group name -> scores (C,) that give the order of removal; absent = the order with the least error.

    Returns:
        Group name -> curve.
    """
    curves = {}
    for group in groups:
        measured = readers.get(group.name, ())
        if measured:
            given = _ascending(scores[group.name]) if group.name in scores else None
            order, errors = eliminate([reader.form for reader in measured], group.size, given)
            last = np.setdiff1d(np.arange(group.size), order.numpy())
            curves[group.name] = ErrorCurve(np.append(order.numpy(), last), errors.numpy(), note=_note(measured))
    return curves


def _ascending(scores_C: FloatArray) -> Tensor:
    return torch.from_numpy(np.argsort(scores_C, kind="stable"))


def _note(measured: Sequence[MeasuredReader]) -> str:
    """What a curve does not know."""
    if not any(reader.form.share for reader in measured):
        return CONSTANT
    return FEW if any(reader.samples < len(reader.form.matrix) for reader in measured) else ""


def scores_along(curve: ErrorCurve) -> FloatArray:
    """Score each channel by what its removal adds to the error; never less than the one removed before it.

    Args:
        curve: The group's error curve.

    Returns:
        Scores (C,); those of channels that cost nothing differ by their place in the order.
    """
    size = len(curve.order)
    steps = np.diff(curve.weighted, append=2 * curve.weighted[-1] + 1e-12)
    rising = np.maximum.accumulate(np.maximum(steps, 0.0))
    scores = np.empty(size)
    scores[curve.order] = rising + 1e-12 * np.arange(size) / size
    return scores


def energy_curves(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    readers: Mapping[str, Sequence[MeasuredReader]],
    batches: Sequence[Arguments],
    batch_dims: BatchDims | None = None,
) -> dict[str, ErrorCurve]:
    """Make the curves of groups that no layer reads, such as those of queries and keys: nothing can be refitted.

    A channel's loss is the geometric mean of its energies in all layers that write it, because what queries and keys
    add to a score is the product of their entries.

    Args:
        module: The model, in eval mode.
        groups: Its groups.
        readers: Group name -> what was measured of the layers that read it.
        batches: Samples without labels.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        Group name -> curve, for the groups without readers.
    """
    unseen = [group for group in groups if group.frozen is None and not readers.get(group.name)]
    energies: dict[str, dict[str, Tensor]] = {group.name: {} for group in unseen}

    def _add(name: str, weight: str, values: Tensor) -> None:
        energy_C = values.double().square().flatten(2).mean(2).sum(0)
        energies[name][weight] = energies[name].get(weight, torch.zeros_like(energy_C)) + energy_C

    if unseen:
        visit_channel_maps(module, unseen, batches, _add, written=True, batch_dims=batch_dims)
    curves = {}
    for group in unseen:
        if energies[group.name]:
            per_writer = torch.stack(list(energies[group.name].values()))
            shares = _shares(_shares(per_writer).log().mean(0).exp()).numpy()
            order = np.argsort(shares, kind="stable")
            errors = np.concatenate([[0.0], shares[order].cumsum()[:-1]])
            curves[group.name] = ErrorCurve(order, errors, note=UNSEEN)
    return curves


def _shares(energies: Tensor) -> Tensor:
    return energies / energies.sum(-1, keepdim=True).clamp_min(1e-300)
