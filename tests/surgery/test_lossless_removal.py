"""Whether zero channels can go without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
    assert output_change(module, remove_channels(module, structure, plan), inputs) > 1e-3
    assert output_change(module, module, inputs) == 0
