"""What a run says of a file that takes fewer sizes than the recipe wants, and of a model that answers zero."""

from __future__ import annotations

import json
from pathlib import Path

from compressor.cli import run

SIAMESE = """
import torch
from torch import nn

class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.hidden, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3), nn.Conv2d(24, 2, 1)

    def forward(self, pair):
        x = self.hidden(self.shared(torch.cat([pair[:, :3], pair[:, 3:]], 0)).relu()).relu()
        return self.head(torch.cat(x.chunk(2, 0), 1)).mean((2, 3))

class Zero(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 12, 3), nn.Conv2d(12, 12, 3)
        self.head = nn.Linear(12, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        return self.head(self.b(self.a(x).relu()).relu().mean((2, 3)))

def example_inputs():
    return torch.rand(2, 6, 16, 16)
"""


def test_a_file_of_one_batch_size_warns_and_a_zero_head_is_proven(tmp_path: Path) -> None:
    """torch.export fixes a batch that is doubled and halved; a head of zeros answers zero whatever is removed."""
    net = tmp_path / "net.py"
    net.write_text(SIAMESE)
    warnings = {}
    for factory in ("Siamese", "Zero"):
        out = tmp_path / factory
        options = ["--set", "prune.target={ratio: 50%}", "--set", "prune.round_to=1", "--target", "none"]
        assert run([f"{net}:{factory}", "-r", "l1", "-o", str(out), "-q", *options]) == 0
        report = json.loads((out / "report.json").read_text())
        warnings[factory] = [text for text in report["warnings"] if "one size only" in text]
    assert [len(warnings["Siamese"]), len(warnings["Zero"])] == [1, 0]
