"""A module that keeps tensors of its weights computes them anew once channels were removed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal
from compressor.surgery.removal import remove_channels


class Keeping(nn.Module):
    """Adds one number for each channel, which it keeps in eval mode, as attentions keep biases by position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.numbers = nn.Parameter(torch.randn(8))
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Keeping:
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and "numbers" not in self.kept:
            self.kept["numbers"] = self.numbers.detach()[:, None, None]
        numbers = self.numbers[:, None, None] if self.training else self.kept["numbers"]
        return self.conv2((self.conv1(x) + numbers).relu()).mean((2, 3))


def test_kept_tensors_follow_the_widths() -> None:
    torch.manual_seed(0)
    module, x = Keeping().eval(), torch.randn(2, 3, 6, 6)
    module.conv2.train()  # modes are those of every part
    graph = analyze(module, x, name="it")
    with torch.no_grad():
        module(x)
    (group,) = (group for group in graph.groups if group.frozen is None)
    plan = PrunePlan({group.name: np.arange(8) < 5})
    slim = remove_channels(module, graph, plan)
    assert [part.training for part in slim.modules()] == [part.training for part in module.modules()]
    with torch.no_grad():
        slim(x)
    assert slim.kept["numbers"].shape == (5, 1, 1)
    assert module.kept["numbers"].shape == (8, 1, 1)
    assert certify_removal(module, slim, graph, plan, x).ok
