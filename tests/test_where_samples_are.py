"""Networks with their samples elsewhere than first, from the command line: counts in the report are of samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compressor.cli import run

pytestmark = pytest.mark.usefixtures("quick_export")

CODE = """
import torch
from torch import nn

class Tagger(nn.Module):  # time first, with a number that all samples share and a mean over them
    def __init__(self):
        super().__init__()
        self.rnn, self.hidden, self.head = nn.GRU(6, 16), nn.Linear(16, 24), nn.Linear(24, 1)
    def forward(self, gain, x):
        tags = gain * self.head(torch.relu(self.hidden(self.rnn(x)[0]))).squeeze(-1)
        return {"loss": tags.square().mean(), "tags": tags}
def tagger():
    torch.manual_seed(0)
    return Tagger()

class Scaler(nn.Module):  # samples first
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
    def forward(self, gain, x):
        return gain * self.head(torch.relu(self.hidden(x)))
def scaler():
    torch.manual_seed(0)
    return Scaler()

class Reader(nn.Module):  # pictures first, their columns first in the answer
    def __init__(self):
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16, 5)
    def forward(self, x):
        return self.head(self.see(x).mean(2).permute(2, 0, 1)).log_softmax(2)
def reader():
    torch.manual_seed(0)
    return Reader()
"""
EXAMPLES = {
    "tagger": "def example_inputs(): return torch.tensor(2.0), torch.randn(7, 3, 6)",
    "reader": "def example_inputs(): return torch.randn(2, 1, 6, 9)",
}
SHAPES = {"tagger": (7, 6), "reader": (1, 6, 9)}
SAMPLES = 90  # a fifth of them is held out


@pytest.mark.parametrize("recipe", ["minutes", pytest.param("l1", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["tagger", "reader"])
def test_samples_are_counted_and_not_steps(name: str, recipe: str, tmp_path: Path) -> None:
    net, data, out = tmp_path / "net.py", tmp_path / "data.npz", tmp_path / "out"
    net.write_text(f"{CODE}{EXAMPLES[name]}\n")
    arrays = {"x": np.random.default_rng(0).normal(size=(SAMPLES, *SHAPES[name])).astype(np.float32)}
    np.savez(data, **arrays, **({"gain": np.float32(2.0)} if name == "tagger" else {}))
    options = ["--data", str(data), "--set", "bench.target=none", "--set", "prune.round_to=1"]
    retraining = ["--set", "retrain.epochs=1"] if recipe == "l1" else []
    assert run([f"{net}:{name}", "-r", recipe, "-o", str(out), "-q", *options, *retraining]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["agreement"]["samples"] == 18
    assert report["agreement"]["top1"] is None
    assert report["reconstruction"]["images"] == 65, "the others of 72 judge"


def test_a_network_without_examples_shares_the_single_numbers_of_a_file(tmp_path: Path) -> None:
    net, data, out = tmp_path / "net.py", tmp_path / "data.npz", tmp_path / "out"
    net.write_text(CODE)
    arrays = {"gain": np.float32(2), "x": np.random.default_rng(0).normal(size=(SAMPLES, 7, 6)).astype(np.float32)}
    np.savez(data, **arrays)
    options = ["--data", str(data), "--set", "bench.target=none", "--set", "prune.round_to=1"]
    assert run([f"{net}:scaler", "-r", "minutes", "-o", str(out), "-q", *options]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["agreement"]["samples"] == 18
