"""The values of channels on samples, as those see them that read the channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compressor.core import BatchDims, ChannelGroup, TensorSlot
from compressor.error_curves.visit_layers import LayerCall, LayerVisitor
from compressor.tensors import Inputs, as_arguments

if TYPE_CHECKING:
    from compressor.core import FloatArray

ShowMaps = Callable[[str, str, Tensor], None]
"""group, weight of the layer, values (B, C, r, *) of one batch in one layer, r entries for each channel"""


def visit_channel_maps(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Inputs],
    show: ShowMaps,
    *,
    written: bool = False,
    batch_dims: BatchDims | None = None,
) -> None:
    """Show the values of every group in all layers that read it; of groups without such layers, in those that write it.

    Args:
        module: The model, in eval mode.
        groups: The groups; frozen ones are left out.
        batches: Samples without labels.
        show: Called for every layer and batch.
        written: Whether all groups are shown where they are written.
        batch_dims: Batch dimension of each input; None = the first of all.
    """
    visitor = LayerVisitor(module, [as_arguments(inputs) for inputs in batches], batch_dims)
    calls: dict[str, list[Callable[[LayerCall], None]]] = {}
    for group in groups:
        if group.frozen is not None:
            continue
        seen = [slot for slot in group.slots if slot.tensor in visitor.layers]
        readers = [] if written else [slot for slot in seen if slot.role == "reader"]
        for slot in readers or [slot for slot in seen if slot.role == "writer"]:
            calls.setdefault(slot.tensor, []).append(partial(_show, show, group.name, slot, bool(readers)))

    def show_all(call: LayerCall) -> None:
        for shows in calls[call.layer.weight]:
            shows(call)

    visitor.visit(calls.keys(), show_all)


def _show(show: ShowMaps, name: str, slot: TensorSlot, of_input: bool, call: LayerCall) -> None:
    values, layer, index = call.input if of_input else call.output, call.layer, torch.from_numpy(slot.positions)
    if layer.window is None:  # (B, *, channels)
        values = values.reshape(len(values), -1, values.shape[-1]).transpose(1, 2)
    elif layer.groups > 1 and slot.dim == 1 and not layer.depthwise:  # every group has the same places
        starts = torch.arange(layer.groups) * (values.shape[1] // layer.groups)
        index = (index.unsqueeze(1) + starts.unsqueeze(1)).flatten(1)
    show(name, layer.weight, values[:, index])


def mean_over_maps(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Inputs],
    formula: Callable[[Tensor], Tensor],
    batch_dims: BatchDims | None = None,
) -> dict[str, FloatArray]:
    """Average a score of channels over samples, and over the layers that read them.

    Args:
        module: The model, in eval mode.
        groups: The groups; frozen ones are left out.
        batches: Samples without labels.
        formula: Values (B, C, r, *) -> scores (B, C) in float64.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        Group name -> scores (C,).
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def _add(name: str, weight: str, values: Tensor) -> None:
        scores_BC = formula(values)
        sums[name] = sums.get(name, 0.0) + scores_BC.sum(0)
        counts[name] = counts.get(name, 0) + len(scores_BC)

    visit_channel_maps(module, groups, batches, _add, batch_dims=batch_dims)
    return {name: (total / counts[name]).numpy() for name, total in sums.items()}
