"""Whether zero channels can go without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.core import PrunePlan, Selection
from compressor.graph.analyse import analyse
from compressor.graph.certificate import change, falls_silent
from compressor.graph.choose import choose
from compressor.graph.score import scores
from compressor.graph.shrink import shrink
from compressor.methods.criteria import l1


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
    structure = analyse(module, inputs[:1], name="net")
    graded = scores(module, structure.groups, l1)
    whole = structure.cost.of(PrunePlan({}))
    plan, _ = choose(structure.groups, graded, Selection(ratio=0.5), structure.cost, whole)
    assert falls_silent(module, structure, plan, inputs) == silent
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert change(module, shrink(module, structure, plan), inputs) > 1e-3
    assert change(module, module, inputs) == 0
