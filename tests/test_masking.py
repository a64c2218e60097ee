"""Masks of single weights through the engine and the pipeline: counts, rounds, training, dead channels, files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from failures import raises_error
from torch import nn

import compressor
from compressor.budget.layer_rules import LayerRule
from compressor.commands import plan as planning
from compressor.commands import verify as verifying
from compressor.core import LoadedModel, ModelSpec, one_image
from compressor.criteria.gradient import GradientCriterion
from compressor.criteria.gradient_formulas import snip
from compressor.criteria.magnitude import magnitude
from compressor.criteria.random_scores import random_scores
from compressor.errors import RecipeError, TargetNotReached, VerificationFailed
from compressor.pipeline import compress_model
from compressor.recipe import read_recipe
from compressor.run_log import RunLog
from compressor.run_options import RunOptions
from compressor.sparsity.onnx_check import find_masked_weights
from compressor.steps.context import Context
from compressor.steps.mask_unstructured import MaskUnstructured
from compressor.steps.remove_dead_channels import RemoveDeadChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.state import PruningState
from compressor.steps.train import Train
from compressor.training.schedules import constant
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import quiet, toy_data

TRAIN = Train(batch_size=8, optimizer=OptimizerSettings("sgd", 0.05, 0.9, 5e-4), schedule=constant(), iterations=6)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ).eval()  # fmt: skip


NAMES = ("0.weight", "3.weight", "7.weight")  # 216, 432 and 24 weights: 672


@pytest.fixture
def around(tmp_path: Path) -> Context:
    return Context(toy_data(40), 0, RunLog(), Checkpoints(tmp_path, "test"))


@pytest.fixture
def start(around: Context) -> PruningState:
    return initial_state(LoadedModel(net(), ModelSpec("toy", one_image((3, 8, 8))), "toy"), around)


def left(work: PruningState) -> int:
    return sum(int(mask.sum()) for mask in work.masks.values())


def test_so_many_of_the_largest_weights_of_all_layers_stay(start: PruningState, around: Context) -> None:
    work = run_step(MaskUnstructured(magnitude, (0.1,), guard=False), start, around)
    values = torch.cat([start.model.module.get_parameter(name).detach().abs().flatten() for name in NAMES])
    least = values.sort(descending=True).values[66]  # 67 of 672
    assert left(work) == 67
    for name in NAMES:
        before, after = start.model.module.get_parameter(name), work.model.module.get_parameter(name)
        assert torch.equal(work.masks[name], before.abs() >= least)
        assert torch.equal(after, before * work.masks[name])
    assert work.certificate is not None
    assert work.certificate.kind == "masked-weights"
    assert work.steps[-1] == "MaskUnstructured(magnitude, 10 % remain)"


def test_biases_and_norms_are_never_masked_and_frozen_layers_count_as_what_remains(
    start: PruningState, around: Context
) -> None:
    step = MaskUnstructured(magnitude, (0.5,), rules=(LayerRule("0", freeze=True),))
    work = run_step(step, start, around)
    assert work.masks.keys() == {"3.weight", "7.weight"}
    assert left(work) == 672 // 2 - 216
    with raises_error(TargetNotReached, "target-not-reachable/too-few-weights", "218 of 672", re.compile(r"30")):
        run_step(replace(step, keep=(0.3,)), start, around)
    with raises_error(RecipeError, "recipe-does-not-fit-the-model/unmatched-layer-rule", "'stem'"):
        run_step(replace(step, rules=(LayerRule("stem", freeze=True),)), start, around)


def test_later_steps_leave_masked_what_earlier_ones_masked_unless_they_compare_all_anew(
    start: PruningState, around: Context
) -> None:
    first = run_step(MaskUnstructured(random_scores, (0.5,)), start, around)
    nested = run_step(MaskUnstructured(magnitude, (0.1,)), first, around)
    assert all(not bool((nested.masks[name] & ~first.masks[name]).any()) for name in NAMES)
    assert left(nested) == 67
    free = run_step(MaskUnstructured(magnitude, (0.6,), nested=False), first, around)
    assert left(free) == 403


def test_lots_follow_the_seed(start: PruningState, around: Context) -> None:
    one, same, other = (
        run_step(MaskUnstructured(random_scores, (0.3,)), start, replace(around, seed=seed)).masks for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in NAMES)
    assert not all(torch.equal(one[name], other[name]) for name in NAMES)


def test_scores_that_are_no_numbers_are_refused(start: PruningState, around: Context) -> None:
    step = MaskUnstructured(GradientCriterion("broken", lambda w, g, h: w / 0, batches=1, batch_size=8), (0.5,))
    with raises_error(VerificationFailed, "scores/non-finite", "0.weight", "216 of 216"):
        run_step(step, start, around)


def test_the_guard_says_that_it_acted_and_its_absence_too(start: PruningState, around: Context) -> None:
    with torch.no_grad():
        start.model.module.get_parameter("3.weight").mul_(1e-3)
    heard: list[tuple[str, object]] = []
    listening = replace(around, log=RunLog(emit=lambda event, fields: heard.append((event, fields.get("text")))))
    work = run_step(MaskUnstructured(magnitude, (0.1,)), start, listening)
    assert int(work.masks["3.weight"].sum()) == 1
    assert ("note", "no weight would have been left of 3: the best of each is kept") in heard
    work = run_step(MaskUnstructured(magnitude, (0.1,), guard=False), start, listening)
    assert not work.masks["3.weight"].any()
    assert ("warning", "no weight is left of 3") in heard


def test_zeros_stay_through_training_and_dead_channels_go_after_it(start: PruningState, around: Context) -> None:
    criterion = GradientCriterion("snip", snip, batches=2, batch_size=8)
    masked = run_step(MaskUnstructured(criterion, (0.03,)), start, around)
    trained = run_step(TRAIN, masked, around)
    assert all(not trained.model.module.get_parameter(name)[~masked.masks[name]].any() for name in NAMES)
    with torch.no_grad():  # one channel that nobody reads, for sure
        trained.masks["3.weight"][:, 0] = False
        trained.model.module.get_parameter("3.weight")[:, 0] = 0
    slim = run_step(RemoveDeadChannels(), trained, around)
    assert slim.removed is not None
    assert not slim.removed.kept["0"][0]
    assert slim.certificate is not None
    assert slim.certificate.kind == "masked-weights+masked-dense-float64"
    assert slim.certificate.ok
    x = torch.randn(3, 3, 8, 8)
    assert torch.allclose(slim.model.module.eval()(x), trained.model.module.eval()(x), atol=1e-6)
    for name, mask in slim.masks.items():
        assert mask.shape == slim.model.module.get_parameter(name).shape
        assert not slim.model.module.get_parameter(name)[~mask].any()


def test_without_dead_channels_the_model_stays(start: PruningState, around: Context) -> None:
    work = run_step(RemoveDeadChannels(), start, around)
    assert work.removed is None
    assert work.model is start.model


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("run") / "out"
    recipe = read_recipe("magnitude-u", ["prune.target={weights: 2%}", "bench.target=none"])
    compress_model("cifar:resnet8@digits", recipe, out, RunOptions())
    return out, json.loads((out / "report.json").read_text())


def test_the_report_counts_what_is_left_and_promises_no_speed(finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    masks = report["masks"]
    module = compressor.load(out)
    assert masks["left"] == sum(
        int(module.get_submodule(each["name"]).weight.count_nonzero()) for each in masks["layers"]
    )
    assert masks["left"] <= 0.02 * masks["weights"]
    assert masks["sparsity_percent"] == pytest.approx(100 * (1 - masks["left"] / masks["weights"]))
    assert sum(each["weights"] for each in masks["layers"]) == masks["weights"] == 74512
    assert "expect no speed-up" in masks["expected"]
    assert "expect no speed-up" in (out / "report.html").read_text()
    assert report["steps"][-1] == "RemoveDeadChannels"
    (gate,) = report["gates"]
    assert (gate["name"], gate["ok"]) == ("target weights", True)
    assert report["groups"]["pruned"] > 0, "at 2 % some channels have lost every reader"
    assert report["slim"]["params"] < report["dense"]["params"]


def test_the_onnx_file_holds_the_zeros(finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    metadata = {each.key: each.value for each in onnx.load(out / "model.onnx").metadata_props}
    assert metadata["sparsity"] == "unstructured"
    module = compressor.load(out)
    exported = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(out / "model.onnx").graph.initializer}
    for each in report["masks"]["layers"]:
        name = f"{each['name']}.weight"
        assert np.array_equal(exported[name] == 0, (module.get_parameter(name) == 0).numpy()), name
    shape, most = report["masks"]["layers"][2]["shape"], report["masks"]["layers"][2]["left"]
    assert find_masked_weights(out / "model.onnx", [(shape, most)]) == (1, [])
    assert find_masked_weights(out / "dense.onnx", [((16, 16, 3, 3), most)]) == (0, [(16, 16, 3, 3)])


def test_verify_counts_the_zeros_of_both_files(finished: tuple[Path, dict[str, Any]]) -> None:
    checks = {check["name"]: check for check in verifying.verify_folder(finished[0], emit=quiet)["checks"]}
    assert all(check["ok"] for check in checks.values()), checks
    assert {"certificate", "masks in slim.safetensors", "masks in model.onnx"} <= checks.keys()


def test_plan_promises_nothing_either() -> None:
    recipe = read_recipe("snip", ["bench.target=none"])
    plan = planning.plan_run("cifar:resnet8@digits", recipe, data=None, trust_pickle=False, emit=quiet)
    assert plan["steps"] == ["Reinitialize", "MaskUnstructured(snip, 5 % remain)", "RemoveDeadChannels"]
    assert plan["target"] == "weights: 5%"
    assert "expect no speed-up" in str(plan["sparsity"])


@pytest.mark.parametrize(("override", "line"), [
    ("prune.target={params: 5%}", "prune.target is a block; allowed: {weights: 5%} alone, not params"),
    ("prune.target={weights: 5%, macs: 50%}", "allowed: {weights: 5%} alone, not macs and weights"),
    ("prune.scope=global", "prune.scope is 'global'; allowed: nothing while prune.method is snip"),
    ("prune.round_to=8", "prune.round_to is 8; allowed: nothing while prune.method is snip"),
    ("prune.layers=[{match: conv1, ratio: 50%}]", "allowed: rules with freeze only: snip masks single weights"),
])  # fmt: skip
def test_what_means_nothing_where_single_weights_are_masked_is_refused(override: str, line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("snip", [override])
    assert line in str(caught.value), str(caught.value)


def test_a_recipe_equals_the_one_it_is_written_out_to(tmp_path: Path) -> None:
    recipe = read_recipe("snip")
    (tmp_path / "it.yaml").write_text(recipe.to_yaml())
    assert "round_to" not in recipe.to_yaml()
    assert read_recipe(str(tmp_path / "it.yaml")) == recipe
