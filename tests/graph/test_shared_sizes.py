"""One number that a module stores is the size of several dimensions, which stay equally wide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal
from compressor.surgery.removal import contradictions, remove_channels


class Halves(nn.Module):
    """One step of TabNet: the second part of the first layer's output attends, both parts of the second's go on."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 16
        self.a, self.a2 = nn.Linear(8, 32), nn.Linear(8, 32)
        self.attend, self.b, self.c = nn.Linear(16, 8), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.attend(self.a(x)[:, self.n :]))
        out = self.a2(x)
        return self.b(torch.relu(out[:, : self.n])) + self.c(out[:, self.n :])


class Branches(nn.Module):
    """Two independent branches of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 16
        self.a, self.a2, self.b, self.c = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)[:, : self.n].relu()) + self.c(self.a2(x)[:, self.n :].relu())


class Heads(nn.Module):
    """Two layers whose heads are as large, and a number of that size that means nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.epochs = 16, 16
        self.a, self.a2, self.b, self.c = nn.Linear(8, 64), nn.Linear(8, 64), nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.a(x).reshape(-1, 4, self.size).relu(), self.a2(x).reshape(-1, 4, self.size).sigmoid()
        return self.b(one.reshape(-1, 4 * self.size)) + self.c(other.reshape(-1, 4 * self.size))


@pytest.mark.parametrize("network", [Halves, Branches, Heads])
def test_dimensions_that_share_a_number_stay_equally_wide(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = network().eval(), torch.randn(2, 8)
    graph = analyze(module, x, name="toy")
    random = np.random.default_rng(0)
    free = [group for group in graph.groups if group.frozen is None]
    plan = PrunePlan({group.name: random.permutation(group.size) < 2 + index for index, group in enumerate(free)})
    assert not contradictions(graph.attributes, plan)
    slim = remove_channels(module, graph, plan)
    assert certify_removal(module, slim, graph, plan, x).ok
    for name in ("a", "a2"):
        assert len(slim.get_parameter(f"{name}.weight")) < len(module.get_parameter(f"{name}.weight"))
