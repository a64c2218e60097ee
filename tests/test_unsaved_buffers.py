"""Buffers that state dicts leave out follow the widths from the removal to the folder, and back from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import compressor
from compressor import cli

pytestmark = pytest.mark.usefixtures("quick_export")

CODE = """
import torch
from torch import nn

class Blur(nn.Module):
    def __init__(self, channels):
        super().__init__()
        filters = torch.arange(1.0, channels + 1).reshape(channels, 1, 1, 1) * torch.ones(channels, 1, 3, 3) / 9
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, x):
        return nn.functional.conv2d(x, self.filters, padding=1, groups=x.shape[1])

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), Blur(16), nn.ReLU(), nn.Conv2d(16, 8, 3), Blur(8), nn.Flatten(),
                         nn.Linear(128, 5))
"""


def channels_of(module: nn.Module) -> list[int]:
    """The filter of channel c is c / 9 everywhere, c = 1 ... 16."""
    values: list[int] = (9 * module.get_buffer("1.filters")[:, 0, 0, 0]).round().int().tolist()
    return values


def test_a_network_with_unsaved_buffers_is_pruned_loaded_and_pruned_further(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    out, again = tmp_path / "out", tmp_path / "again"
    settings = ["-r", "l1", "--target", "none", "--set", "prune.round_to=1", "-q"]
    source = f"{tmp_path}/net.py:make"
    given = ["--set", "model.input=[3, 8, 8]", "--set", "prune.target={macs: 50%}"]
    assert cli.run([source, *settings, *given, "-o", str(out)]) == 0
    assert cli.run(["verify", str(out), "-q"]) == 0
    slim = compressor.load(out)
    assert "1.filters" not in slim.state_dict()
    widths = channels_of(slim)
    assert len(widths) < 16
    assert widths == sorted(set(widths))
    assert cli.run([str(out), *settings, "--set", "prune.target={macs: 25%}", "-o", str(again)]) == 0
    assert cli.run(["verify", str(again), "-q"]) == 0
    assert set(channels_of(compressor.load(again))) < set(widths)
    assert torch.isfinite(compressor.load(again)(torch.randn(2, 3, 8, 8))).all()
