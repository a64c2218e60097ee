"""Pruned models to reconstruct: the one place here that calls the surgery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import KeptIndices, PrunePlan
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import compose_kept, remove_channels


def pruned(module: nn.Module, example: Tensor, removed: Mapping[str, Sequence[int]]) -> tuple[nn.Module, KeptIndices]:
    """The model without some channels of its groups, and what it keeps of every tensor."""
    structure = analyze(module, example, name="toy")
    sizes = {group.name: group.size for group in structure.groups if group.frozen is None}
    plan = PrunePlan({name: ~np.isin(np.arange(sizes[name]), channels) for name, channels in removed.items()})
    slim = remove_channels(module, structure, plan)
    return slim.eval(), compose_kept({}, structure.groups, plan, slim)


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in eval mode with random weights, and BatchNorm statistics that are not those of a fresh one."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) / max(1, parameter[0].numel()) ** 0.5)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                values = torch.rand(buffer.shape, generator=random)
                buffer.copy_(values + 0.5 if name.endswith("var") else values)
    return module.eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
