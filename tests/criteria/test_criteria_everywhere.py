"""All criteria on all kinds of groups: residual, concatenated, grouped, depthwise, heads of attention, LSTM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.criteria import channel_criteria
from compressor.criteria.base import ScoringContext
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import remove_channels
from tests.criteria.unlabelled import unlabelled
from tests.training.toys import Shortcut


class Concatenated(nn.Module):
    """Two branches side by side, a grouped and a depthwise convolution behind them, all flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.mixed, self.norm = nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2), nn.Linear(4 * 25, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        x = self.depthwise(torch.relu(self.norm(self.mixed(x))))
        return self.head(torch.relu(self.up(x)).flatten(1))


class Attention(nn.Module):
    """One layer of self-attention written out, with heads, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.hidden, self.back, self.head = (
            nn.Linear(8, 8),
            nn.Linear(8, 16),
            nn.Linear(16, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-1, -2) / 2).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).flatten(2))
        return self.head((x + self.back(torch.relu(self.hidden(x)))).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm, self.head = nn.Linear(5, 6), nn.LSTM(6, 7, 2, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.first(x))[0][:, -1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Shortcut, (3, 8, 8)),
    "concatenated": (Concatenated, (3, 8, 8)),
    "attention": (Attention, (6, 8)),
    "lstm": (Recurrent, (4, 5)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", sorted(channel_criteria()))
def test_a_criterion_scores_every_group(network: str, name: str) -> None:
    build, shape = NETWORKS[network]
    torch.manual_seed(0)
    module, inputs = build().eval(), torch.randn(48, *shape)
    graph = analyze(module, inputs[:1], name="toy")
    free = {group.name: group.size for group in graph.groups if group.frozen is None}
    assert free
    scores = channel_criteria()[name].score_channels(module, graph.groups, ScoringContext(unlabelled(inputs)))
    scored = {group: values.shape for group, values in scores.items()}
    if name != "bn_scale":
        assert scored == {group: (size,) for group, size in free.items()}
    assert all(np.isfinite(values).all() for values in scores.values())
    kept = {group: values > np.sort(values)[len(values) // 2 - 1] for group, values in scores.items()}
    slim = remove_channels(module, graph, PrunePlan({group: mask for group, mask in kept.items() if mask.any()}))
    assert slim(inputs).shape == module(inputs).shape
