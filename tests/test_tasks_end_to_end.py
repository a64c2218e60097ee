"""Whole runs of models that are no classifiers: from the user's file to the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from compressor.errors import AccuracyGateFailed
from compressor.pipeline import compress_model
from compressor.recipe import read_recipe
from compressor.report.findings import Report
from compressor.run_options import RunOptions

pytestmark = pytest.mark.usefixtures("quick_export")

NET = """
import torch
from torch import nn

input_size = (3, 16, 16)

class Depth(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        )
        self.depth = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        return self.depth(self.body(x))

class TwoHeads(Depth):
    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(16, 1)

    def forward(self, x):
        y = self.body(x)
        return self.depth(y), self.mean(y.mean((2, 3)))

def depth():
    torch.manual_seed(0)
    return Depth()

def two_heads():
    torch.manual_seed(0)
    return TwoHeads()
"""
DATA = """
import torch
from compressor.core import Metric, Task

def pictures(count, seed):
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

def depths():
    return tuple((images, 2 * images.float().mean(1) / 255) for images in (pictures(256, 0), pictures(64, 1)))

class Both:
    def __init__(self, count, seed):
        self.images = pictures(count, seed)
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        image = self.images[index]
        return image, {"depth": image[:1].float() / 255, "mean": image.float().mean() / 255}

def both():
    return Both(256, 0), Both(64, 1)

def loss(output, target, label_smoothing):
    depth, mean = output
    return (depth - target["depth"]).abs().mean() + (mean[:, 0] - target["mean"]).square().mean()

def inliers(output, target):
    return ((output[0] - target["depth"]).abs() < 0.1).float().mean((1, 2, 3))

def task():
    return Task("depth and mean", loss, Metric("inliers", inliers, lambda mean: 100 * mean, unit="%"))
"""
RECIPE = """
version: 1
prune: {method: l1, target: {ratio: 50%}, round_to: 1}
retrain: {epochs: 2, batch_size: 32, optimizer: {name: adamw, lr: 0.01}, schedule: {name: constant}}
bench: {target: none}
"""


def run(tmp_path: Path, data: str, *overrides: str, model: str) -> tuple[Report, list[str]]:
    """The report, and every warning."""
    for name, text in (("net.py", NET), ("data.py", DATA), ("r.yaml", RECIPE)):
        (tmp_path / name).write_text(text)
    recipe = read_recipe(str(tmp_path / "r.yaml"), [f"data={data}", *overrides])
    told: list[str] = []

    def listen(event: str, fields: Mapping[str, object]) -> None:
        if event == "warning":
            told.append(str(fields["text"]))

    try:
        report = compress_model(
            f"{tmp_path}/net.py:{model}", recipe, tmp_path / "out",
            RunOptions(data=str(tmp_path), emit=listen),
        )  # fmt: skip
    except AccuracyGateFailed as failed:
        report = cast(Report, failed.report)
    return report, told


def events(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (tmp_path / "out" / "run.jsonl").read_text().splitlines())
    return [each for each in lines if each["event"] == kind]


def test_dense_regression(tmp_path: Path) -> None:
    of_training = "mean: [0.5, 0.5, 0.5], std: [0.29, 0.29, 0.29]"
    data = f"{{source: data.py:depths, task: regression, loss: l1, metric: mae, holdout: 20%, {of_training}}}"
    report, warnings = run(tmp_path, data, "gates.accuracy_drop=0.0%", model="depth")
    assert report["metric"] == {"name": "mae", "unit": "", "higher_is_better": False}
    assert report["dense"]["accuracy"] is report["slim"]["accuracy"] is None
    assert set(report["accuracy_steps"].values()) == {None}
    steps = report["metric_steps"]
    assert 0 < report["slim"]["metric"] == steps["after retraining"] < steps["after surgery"]
    assert [each["mae"] for each in events(tmp_path, "metric")] == [
        value for value in steps.values() if value is not None
    ]
    (verdict,) = (each for each in report["gates"] if each["name"] == "accuracy_drop")
    lost = 100 * (report["slim"]["metric"] / report["dense"]["metric"] - 1)
    assert verdict["found"] == f"{lost:.2f} % of mae"
    assert verdict["ok"] is (lost <= 0)
    assert warnings == [], "no talk of chance"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "MAE after each stage" in page
    assert "accuracy" not in page.lower().replace("accuracy_drop", "")


@pytest.mark.long
def test_a_users_own_task_with_two_answers(tmp_path: Path) -> None:
    report, _ = run(tmp_path, "{source: data.py:both, task: data.py:task}", model="two_heads")
    assert report["metric"] == {"name": "inliers", "unit": "%", "higher_is_better": True}
    assert report["slim"]["metric"] > report["metric_steps"]["after surgery"]
    assert report["slim"]["accuracy"] is None
