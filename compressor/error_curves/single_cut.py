"""One group cut alone, and its readers refitted: the tensors that change in the dense model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup
from compressor.error_curves.readers import MeasuredReader
from compressor.reconstruction.regression import as_regression, weight_rows
from compressor.tensors import named_tensors


def cut_tensors(
    module: nn.Module, group: ChannelGroup, readers: Sequence[MeasuredReader], kept: Tensor
) -> dict[str, Tensor]:
    """Compute the dense model's tensors when some channels of one group are removed and their readers repaired.

    Readers get zeros for the removed channels, the others the best refit, and means are compensated. Of a group
    that no weight reads, such as queries and keys, the weights and biases that write it get zeros.

    Args:
        module: The dense model.
        group: The group.
        readers: Its measured readers.
        kept: (C,) bool.

    Returns:
        Tensor name -> new value.
    """
    tensors = named_tensors(module)
    changed: dict[str, Tensor] = {}
    writers = {slot.tensor for slot in group.writers()}
    biases = {f"{name.removesuffix('weight')}bias" for name in writers}
    is_read = any(slot.role == "reader" for slot in group.slots)
    for slot in group.slots:
        if slot.role == "reader" if is_read else slot.tensor in writers | biases:
            value = changed.get(slot.tensor, tensors[slot.tensor].detach()).clone()
            changed[slot.tensor] = value.index_fill_(slot.dim, torch.from_numpy(slot.positions)[~kept].flatten(), 0.0)
    for reader in readers:
        _refit(module, reader, kept, changed)
    return changed


def _refit(module: nn.Module, measured: MeasuredReader, kept: Tensor, changed: dict[str, Tensor]) -> None:
    """Add the refit of one reader."""
    layer, part = measured.reader.layer, measured.reader.part
    regression = as_regression(layer, module, {})
    before = regression.weight[part]
    after = before.clone()
    form, blocks = measured.form, measured.reader.blocks
    delta = form.refit(kept) - form.weight  # of scaled rows
    if measured.reader.pooled:
        delta = delta.reshape(len(before), blocks.shape[1], -1).permute(0, 2, 1)  # (o, C, t)
        after[:, blocks] += delta / measured.scale[:, None, None]
        mean = measured.mean.unsqueeze(1).expand(-1, blocks.shape[1])
        shift = ((before - after)[:, blocks] * mean).sum((1, 2))
    else:
        after += delta / measured.scale[:, None]
        shift = (before - after) @ measured.mean
    tensors = named_tensors(module)
    current = regression.weight.clone()
    if layer.weight in changed:
        current = weight_rows(changed[layer.weight], layer)
    current[part] = after
    changed[layer.weight] = regression.as_parameter(current.flatten(0, 1)).to(tensors[layer.weight])
    rows = slice(part * len(before), (part + 1) * len(before))
    if layer.bias is not None:
        _add(changed, layer.bias, tensors[layer.bias], rows, shift)
    else:
        for name in {site.norm.mean for site in layer.sites if site.norm is not None}:
            assert name is not None
            _add(changed, name, tensors[name], rows, -shift)


def _add(changed: dict[str, Tensor], name: str, tensor: Tensor, rows: slice, shift: Tensor) -> None:
    value = changed.get(name, tensor.detach()).clone()
    value[rows] += shift.to(value)
    changed[name] = value
