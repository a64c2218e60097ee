"""From scores of filters to scores of channels, by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from compressor.core import ChannelGroup, TensorSlot
from compressor.criteria._aggregate import mean_over_writers


def test_a_channel_scores_the_mean_of_its_filters_and_then_of_its_layers() -> None:
    """Two filters of `wide` and one of `plain` write each channel: (mean of the two + the one) / 2."""
    module = nn.ModuleDict({"wide": nn.Linear(1, 4, bias=False), "plain": nn.Linear(1, 2, bias=False)})
    with torch.no_grad():
        module["wide"].weight[:, 0] = torch.tensor([1.0, 3.0, 10.0, 20.0])
        module["plain"].weight[:, 0] = torch.tensor([4.0, 5.0])
    slots = (
        TensorSlot("wide.weight", 0, np.array([[0, 1], [2, 3]]), "writer"),
        TensorSlot("plain.weight", 0, np.array([[0], [1]]), "writer"),
    )
    group = ChannelGroup("wide", 2, slots)
    scores = mean_over_writers(module, [group], lambda rows_NK: rows_NK.abs().sum(dim=1))
    assert scores["wide"].tolist() == [(2 + 4) / 2, (15 + 5) / 2]
