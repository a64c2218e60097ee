"""Dropped blocks from the recipe to the files: named, chosen, loaded, verified and pruned further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from failures import raises_error

import compressor
from compressor.commands.plan import plan_run
from compressor.commands.verify import verify_folder
from compressor.core import ignore_event
from compressor.errors import ModelError, RecipeError
from compressor.models.source import load_model
from compressor.pipeline import compress_model
from compressor.recipe import Recipe, read_recipe
from compressor.run_options import RunOptions

pytestmark = pytest.mark.usefixtures("quick_export")

CODE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, strength):
        super().__init__()
        self.inner, self.norm, self.outer = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Conv2d(12, 8, 1)
        with torch.no_grad():
            self.outer.weight.mul_(strength)
            self.outer.bias.zero_()

    def forward(self, x):
        return x + self.outer(torch.relu(self.norm(self.inner(x))))

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Block(strength) for strength in (3.0, 0.0001, 3.0, 0.001))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))
"""
SHORT = ("bench.target=none", "prune.round_to=1", "retrain.epochs=0", "model.input=[3, 8, 8]")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("code") / "net.py"
    file.write_text(CODE)
    return f"{file}:Network"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("samples") / "samples.npy"
    np.save(file, np.random.default_rng(0).normal(size=(160, 3, 8, 8)).astype(np.float32))
    return str(file)


def recipe(drop: str, *overrides: str) -> Recipe:
    return read_recipe("l1", ["prune.target={macs: 60%}", *SHORT, f"prune.blocks={{drop: {drop}}}", *overrides])


def run(source: str, out: Path, drop: str, *overrides: str) -> dict[str, Any]:
    return compress_model(source, recipe(drop, *overrides), out, RunOptions())


@pytest.fixture(scope="module")
def named(source: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("named") / "out"
    return run(source, out, "[blocks.1]"), out


def test_the_report_and_the_plan_name_the_blocks(named: tuple[dict[str, Any], Path]) -> None:
    report, out = named
    assert [block["name"] for block in report["dropped_blocks"]["dropped"]] == ["blocks.1"]
    assert report["dropped_blocks"]["candidates"] == 4
    assert report["certificate"]["kind"] == "dropped-blocks-float64+masked-dense-float64"
    assert report["certificate"]["max_rel_error"] < 1e-12
    assert json.loads((out / "plan.json").read_text())["dropped_blocks"] == ["blocks.1"]
    widths = {layer["name"]: layer["after"] for layer in report["layers"]}
    assert widths["blocks.1.inner"] == 0 < widths["blocks.0.inner"]


def test_the_block_is_in_neither_the_module_nor_the_file(named: tuple[dict[str, Any], Path]) -> None:
    _, out = named
    module = compressor.load(out)
    assert not list(module.get_submodule("blocks.1").parameters())
    graph = onnx.load(out / "model.onnx").graph
    assert sum(node.op_type == "Conv" for node in graph.node) == 1 + 3 * 2


def test_the_folder_is_verified_and_pruned_further(named: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, out = named
    assert verify_folder(out, emit=ignore_event)["proven"]
    report = run(str(out), tmp_path / "again", "[blocks.3]", "prune.target={macs: 30%}")
    assert load_model(str(tmp_path / "again")).dropped == ("blocks.1", "blocks.3")
    assert report["slim"]["macs"] <= 0.3 * load_model(str(out)).original.macs  # of the original
    assert verify_folder(tmp_path / "again", emit=ignore_event)["proven"]


def test_a_block_that_the_architecture_lacks_is_refused(named: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, out = named
    (tmp_path / "slim.safetensors").write_bytes((out / "slim.safetensors").read_bytes())
    plan = json.loads((out / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "dropped_blocks": ["blocks.9"]}))
    with pytest.raises(ModelError) as caught:
        compressor.load(tmp_path)
    assert caught.value.code == "output-folder/unknown-block"


def test_the_plan_drops_what_the_run_drops(source: str) -> None:
    plan = plan_run(source, recipe("[blocks.1]"), data=None, trust_pickle=False, emit=ignore_event)
    assert [block["name"] for block in plan["dropped_blocks"]["dropped"]] == ["blocks.1"]
    assert plan["ratios"]["macs"] >= 1 / 0.6


@pytest.mark.parametrize(
    ("drop", "target", "code"),
    [
        ("[blocks.7]", "{macs: 60%}", "recipe-does-not-fit-the-model/unknown-block"),
        ("5", "{macs: 60%}", "recipe-does-not-fit-the-model/too-few-blocks"),
        ("auto", "{ratio: 20%}", "recipe/not-allowed"),
        ("0", "{macs: 60%}", "recipe/not-allowed"),
        ("[blocks.1, blocks.1]", "{macs: 60%}", "recipe/not-allowed"),
    ],
)
def test_what_cannot_be_dropped(source: str, samples: str, drop: str, target: str, code: str) -> None:
    def plan() -> None:
        settings = recipe(drop, f"prune.target={target}")
        plan_run(source, settings, data=samples, trust_pickle=False, emit=ignore_event)

    with pytest.raises(RecipeError) as caught:
        plan()
    assert caught.value.code == code


def test_a_number_of_blocks_is_chosen_by_the_answers(source: str, samples: str) -> None:
    plan = plan_run(source, recipe("2"), data=samples, trust_pickle=False, emit=ignore_event)
    dropped = plan["dropped_blocks"]["dropped"]
    assert {block["name"] for block in dropped} == {"blocks.1", "blocks.3"}
    assert dropped[0]["divergence"] < dropped[1]["divergence"] < 1e-3


def test_auto_drops_what_the_answers_do_not_need(source: str, samples: str) -> None:
    plan = plan_run(source, recipe("auto"), data=samples, trust_pickle=False, emit=ignore_event)
    record = plan["dropped_blocks"]
    assert {block["name"] for block in record["dropped"]} == {"blocks.1", "blocks.3"}
    by_count = {count["blocks"]: count["divergence"] for count in record["by_count"]}
    assert by_count[2] == min(by_count.values()) < by_count[0]
    assert plan["slim"]["macs"] <= 0.6 * plan["dense"]["macs"]


def test_a_network_without_blocks_is_not_tried(samples: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial prunes and reconstructs the whole network, to be compared with others."""
    code = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
"""
    (tmp_path / "plain.py").write_text(code)
    monkeypatch.setattr("compressor.steps.block_trials.BlockTrials", None)
    plan = plan_run(f"{tmp_path}/plain.py:make", recipe("auto"), data=samples, trust_pickle=False, emit=ignore_event)
    assert plan["dropped_blocks"] is None
    assert plan["slim"]["macs"] <= 0.6 * plan["dense"]["macs"]


def test_a_prediction_beside_dropped_blocks_does_not_count_answers(source: str, samples: str) -> None:
    """The curves compare answers with those of the model without the blocks."""
    by_error = "prune.criterion=obs", "prune.scope=error"
    for drop in ("[blocks.1]", "auto"):
        plan = plan_run(source, recipe(drop, *by_error), data=samples, trust_pickle=False, emit=ignore_event)
        assert plan["error_curves"]["agreement"] is None
    settings = read_recipe("l1", ["prune.target={macs: 60%}", *SHORT, *by_error])
    plan = plan_run(source, settings, data=samples, trust_pickle=False, emit=ignore_event)
    assert plan["error_curves"]["agreement"] is not None


def test_a_freeze_rule_keeps_a_block(source: str, samples: str) -> None:
    rules = "prune.layers=[{match: blocks.1, freeze: true}]"
    settings = recipe("1", rules.replace("blocks.1", "'blocks.1*'"))
    plan = plan_run(source, settings, data=samples, trust_pickle=False, emit=ignore_event)
    assert [block["name"] for block in plan["dropped_blocks"]["dropped"]] == ["blocks.3"]


def test_a_rule_for_the_module_around_blocks_keeps_them_all(source: str, samples: str) -> None:
    settings = recipe("1", "prune.layers=[{match: blocks, freeze: true}]")
    with raises_error(RecipeError, "recipe-does-not-fit-the-model/too-few-blocks", "0 blocks"):
        plan_run(source, settings, data=samples, trust_pickle=False, emit=ignore_event)
