"""Buffers that the state dict leaves out are slots of groups like all others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.reconstruction.regression import aim_through
from compressor.reconstruction.solvable_layers import Affine
from compressor.surgery.analysis import analyze
from compressor.surgery.permutation import permute_channels, permute_kept, permute_optimizer_state
from compressor.surgery.removal import pruned_entries


class Scaled(nn.Module):
    """Scales the channels of a layer by a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("scale", torch.arange(1.0, 5.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.scale)


def test_the_entries_orders_and_scales_of_unsaved_buffers() -> None:
    module, inputs = Scaled().eval(), torch.randn(1, 3)
    groups = analyze(module, inputs, name="net").groups
    plan = PrunePlan({"a": np.array([True, False, True, True])})
    entries = {entry.tensor: entry.entries.tolist() for entry in pruned_entries(groups, plan, module)}
    assert entries["scale"] == [False, True, False, False]
    orders = {"a": np.array([3, 2, 1, 0])}
    assert permute_kept({}, groups, orders, module)["scale"] == {0: (3, 2, 1, 0)}
    assert permute_optimizer_state({"scale": {"mask": torch.arange(4)}}, groups, orders, module)["scale"][
        "mask"
    ].tolist() == [3, 2, 1, 0]
    assert torch.equal(permute_channels(module, groups, orders).scale, torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert torch.equal(aim_through((Affine(scale="scale"),), 4, module).scale, module.scale.double())
