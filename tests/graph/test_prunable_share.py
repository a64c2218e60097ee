"""What free and frozen groups hold of a model's arithmetic, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.core import Freeze
from compressor.graph.prunable_share import prunable_shares
from compressor.surgery.analysis import analyze


def test_free_groups_come_first_and_then_what_would_unlock_most() -> None:
    """16 positions: 3x8 + 8x4 + 4x2 multiply-adds each. The 8 channels are read by a softmax over channels."""
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Softmax(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    structure = analyze(module, torch.randn(1, 3, 4, 4), name="softmax")
    free, first, second = prunable_shares(structure.groups, structure.cost)
    assert (free.frozen, free.groups, free.channels) == (None, 1, 4)
    assert free.macs == pytest.approx((32 + 8) / 64)
    assert first.frozen is not None
    assert "mixes channels (aten.softmax in 1" in first.frozen.reason
    assert first.macs == pytest.approx((24 + 32) / 64)
    assert (second.frozen, second.channels) == (Freeze("model", "output of the model"), 2)
    assert second.macs == pytest.approx(8 / 64)
