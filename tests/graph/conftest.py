"""What tests of the graph share: a network is cut, and the cut is proven."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.graph.cost import count_cost
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal
from compressor.surgery.removal import remove_channels

Cut = Callable[..., tuple[dict[str, int], nn.Module]]
"""(module, *inputs) -> sizes of the groups that can be cut, by name, and the module without a third of each"""


@pytest.fixture
def cut() -> Cut:
    def run(module: nn.Module, *inputs: Tensor) -> tuple[dict[str, int], nn.Module]:
        module.eval()
        structure = analyze(module, *inputs, name="test", mixing=True)
        graded = l1.score_channels(module, structure.groups)
        plan, _ = select_channels(
            structure.groups, graded, PruningTarget(ratio=0.34), structure.cost, count_cost(module, *inputs)
        )
        slim = remove_channels(module, structure, plan)
        assert certify_removal(module, slim, structure, plan, *inputs).ok
        assert count_cost(slim, *inputs) == structure.cost.of(plan)
        assert count_cost(module, *inputs) == structure.cost.of(type(plan)({}))
        return {group.name: group.size for group in structure.groups if group.frozen is None}, slim

    return run
