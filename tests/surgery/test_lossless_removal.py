"""Whether zero channels can go without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import PrunePlan
from compressor.criteria.magnitude import l1
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import is_lossless_when_zeroed, output_change
from compressor.surgery.removal import remove_channels


@pytest.mark.parametrize(
    ("activation", "silent"),
    [(nn.ReLU(), True), (nn.SiLU(), True), (nn.Tanh(), True), (nn.Sigmoid(), False), (nn.Softplus(), False)],
)
@pytest.mark.parametrize("normed", [True, False])
def test_what_activations_make_of_zero_decides(activation: nn.Module, silent: bool, normed: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8) if normed else nn.Identity()
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), norm, activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    inputs = torch.randn(2, 3, 6, 6)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    structure = analyze(module, inputs[:1], name="net")
    graded = l1.score_channels(module, structure.groups)
    whole = structure.cost.of(PrunePlan({}))
    plan, _ = select_channels(structure.groups, graded, PruningTarget(ratio=0.5), structure.cost, whole)
    assert is_lossless_when_zeroed(module, structure, plan, inputs) == silent
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert output_change(module, remove_channels(module, structure, plan), inputs).max_rel_error > 1e-3
    assert output_change(module, module, inputs).max_rel_error == 0


class Insists(nn.Sequential):
    """Runs in float32 only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError(x.dtype)
        return super().forward(x)


def test_a_network_of_float32_alone_is_judged_by_the_tolerance_of_float32() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 300, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module, inputs = Insists(*layers, nn.Linear(300, 4)).eval(), torch.randn(2, 3, 6, 6)
    structure = analyze(module, inputs[:1], name="net")
    plan = PrunePlan({"2": np.arange(300) % 3 == 0})
    assert is_lossless_when_zeroed(module, structure, plan, inputs)
    change = output_change(module, remove_channels(module, structure, plan), inputs)
    assert (change.ok, change.tolerance) == (False, 1e-4)
