"""Python use: a module in memory, its data in memory, and the same proofs as on the command line."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from failures import raises_error
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import compressor
from compressor.api import as_recipe
from compressor.errors import AccuracyGateFailed, DataError, ModelError, RecipeError

pytestmark = pytest.mark.usefixtures("quick_export")

FAST = {"bench.target": "none", "prune.round_to": 1}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def images(n: int = 64) -> Tensor:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_a_module_in_memory_and_samples_in_memory(net: Net) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    slim, report = compressor.compress(
        net, "minutes", data=images(), example_inputs=images(2), overrides=FAST, out="out", progress=False
    )
    assert report["certificate"]["ok"]
    assert report["onnx"]["ok"]
    assert report["ratios"]["macs"] >= 2
    assert report["agreement"]["samples"] > 0
    assert sum(p.numel() for p in slim.parameters()) == report["slim"]["params"] < report["dense"]["params"]
    assert not slim.training
    assert net.training  # the module itself is left as it was
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert report.folder == Path("out")
    page = report._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "&lt;!doctype html&gt;" in page
    assert "proven" in str(report)
    # the folder has no architecture of its own: the dense module gives it
    with raises_error(ModelError, "model/in-memory"):
        compressor.load("out")
    again = compressor.load("out", net)
    with torch.no_grad():
        assert torch.equal(again(images(3)), slim(images(3)))


def test_labelled_loaders_and_a_gate_that_fails(net: Net) -> None:
    data = TensorDataset(images(), torch.arange(64) % 3)
    with raises_error(AccuracyGateFailed, "agreement-gate-failed/answers-differ") as caught:
        compressor.compress(
            net,
            {"version": 1, "prune": {"method": "l1", "target": {"macs": "50%"}}, "retrain": {"epochs": 0}},
            data=(DataLoader(data, 16, shuffle=True), DataLoader(data, 16)),
            example_inputs=images(2),
            overrides={**FAST, "gates.output_error": "0%"},
            out="out",
            progress=False,
        )
    report = caught.value.report
    assert isinstance(report, compressor.RunReport)
    assert report["dense"]["accuracy"] is not None


def test_numpy_samples_and_a_recipe_object(net: Net) -> None:
    recipe = as_recipe("minutes", FAST)
    _, report = compressor.compress(net, recipe, data=images(32).numpy(), example_inputs=images(2), progress=False)
    assert report.folder == Path("Net-recipe")
    with raises_error(RecipeError, "output/exists"):
        compressor.compress(net, recipe, data=images(32), example_inputs=images(2), progress=False)


def test_resume_of_a_finished_run_returns_it(net: Net) -> None:
    run = partial(compressor.compress, net, "minutes", data=images(), example_inputs=images(2), out="out")
    slim, report = run(overrides=FAST, progress=False)
    again, same = run(overrides=FAST, progress=False, resume=True)
    assert same == json.loads(json.dumps(report))
    with torch.no_grad():
        assert torch.equal(again(images(3)), slim(images(3)))
    with raises_error(RecipeError, "resume/other-run", "prune.round_to", "4"):
        run(overrides={**FAST, "prune.round_to": 4}, progress=False, resume=True)
    with torch.no_grad():
        next(net.parameters()).mul_(2)
    with raises_error(RecipeError, "resume/other-run", "SHA-256"):
        run(overrides=FAST, progress=False, resume=True)


def test_a_plan(net: Net) -> None:
    plan = compressor.plan(net, "l1", example_inputs=images(2), overrides=FAST, progress=False)
    assert plan["ratios"]["macs"] >= 2
    assert plan["latency"] is None


def test_a_source_by_name() -> None:
    plan = compressor.plan("cifar:resnet8@digits", "l1", overrides={"bench.target": "none"}, progress=False)
    assert plan["dense"]["params"] == 75_002


def test_what_is_wrong_is_said_before_anything_is_loaded(net: Net) -> None:
    with raises_error(RecipeError, "recipe/data-required"):
        compressor.compress(net, "auto", progress=False)
    with raises_error(ModelError, "model-file/no-such-file"):
        compressor.compress("nowhere.pt", "l1", progress=False)
    with raises_error(DataError, "data/no-such-file"):
        compressor.compress(net, "auto", data="nowhere", progress=False)
    with raises_error(RecipeError, "recipe/not-allowed"):
        compressor.compress(net, "l1", overrides={"prune.target.macs": "140%"}, progress=False)


def test_a_module_without_example_inputs_uses_the_recipe(net: Net) -> None:
    plan = compressor.plan(net, "l1", overrides={**FAST, "model.input": [1, 9, 9]}, progress=False)
    assert plan["dense"]["macs"] == 81 * (9 * 8 + 9 * 8 * 8) + 8 * 3


def test_several_inputs_by_example() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.c((self.a(left) + self.b(right)).relu())

    inputs = (torch.zeros(3, 4), torch.zeros(3, 5))
    plan = compressor.plan(Two(), "l1", example_inputs=inputs, overrides=FAST, progress=False)
    assert plan["dense"]["params"] == 4 * 8 + 8 + 5 * 8 + 8 + 8 * 2 + 2


def test_progress_lines_go_to_stderr(net: Net, capsys: pytest.CaptureFixture[str]) -> None:
    compressor.plan(net, "l1", example_inputs=images(2), overrides=FAST)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(r"s\] analyse", captured.err)


def test_arrays_by_name_are_tensors() -> None:
    from compressor.data.python_sources import objects_in_memory

    value = objects_in_memory({"a": np.zeros((2, 3), np.float32), "b": [torch.zeros(1)]})
    assert isinstance(value["a"], Tensor)
    assert isinstance(value["b"], list)
