"""2of4 through the engine and the pipeline: channels, order, masks, training, proofs, files and words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from failures import raises_error

import compressor
from compressor import cli
from compressor.commands import inspect_onnx as inspecting
from compressor.commands import plan as planning
from compressor.commands import verify as verifying
from compressor.core import LoadedModel, NMPattern
from compressor.data.data_settings import DataSettings
from compressor.data.open_data import open_data
from compressor.errors import ModelError
from compressor.export.int8 import quantize_int8
from compressor.methods import methods
from compressor.models.source import load_model
from compressor.pipeline import compress_model
from compressor.recipe import read_recipe
from compressor.report.findings.nm_zeros import predicted_speedup
from compressor.run_log import RunLog
from compressor.run_options import RunOptions
from compressor.sparsity.nm_masks import satisfies_pattern
from compressor.sparsity.onnx_check import find_nm_weights
from compressor.sparsity.runtimes import RUNTIMES, NMSparsity
from compressor.steps.context import Context
from compressor.steps.run import initial_state, run_step
from compressor.steps.state import PruningState
from compressor.steps.train import Train
from compressor.training.evaluate import evaluate
from compressor.training.schedules import constant
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_checkpoint import Checkpoints

TWO_FOUR = NMPattern(2, 4)
TRAIN = Train(batch_size=64, optimizer=OptimizerSettings("sgd", 0.02, 0.9, 5e-4), schedule=constant(), iterations=12)


def silent(event: str, fields: Mapping[str, object]) -> None:
    """Events that nobody hears."""


@pytest.fixture(scope="module")
def dense() -> LoadedModel:
    return load_model("cifar:resnet8@digits")


@pytest.fixture
def around(dense: LoadedModel, tmp_path: Path) -> Context:
    data = open_data(DataSettings("digits"), None, dense.spec, num_classes=10)
    return Context(data, 0, RunLog(), Checkpoints(tmp_path, "test"))


def worked(dense: LoadedModel, around: Context, *overrides: str) -> PruningState:
    recipe = read_recipe("2of4", ["prune.2of4.rounds=1", *overrides])
    work = initial_state(dense, around)
    for step in (*recipe.method.steps(recipe.pruning_target(8)), TRAIN):
        work = run_step(step, work, around)
    return work


def rule_holds(work: PruningState) -> bool:
    return all(satisfies_pattern(work.model.module.get_parameter(name), TWO_FOUR) for name in work.masks)


def test_fixed_masks_hold_through_training(dense: LoadedModel, around: Context) -> None:
    work = worked(dense, around)
    assert work.steps == ("PermuteChannels(2:4)", "MaskNM(2:4)", "Train(12 iterations, sgd)")
    assert len(work.masks) == 6, "the stem has one input channel, the classifier ten outputs"
    assert rule_holds(work)
    assert work.certificate is not None
    assert work.certificate.kind == "reordered-float64+masked-weights"
    assert work.certificate.ok
    assert work.sparse is not None
    total = work.sparse.total
    assert total.before < total.after < total.upper_bound < 1
    before = {name: tensor.sum() for name, tensor in dense.module.state_dict().items()}
    changed = [name for name in work.masks if work.model.module.get_parameter(name).sum() != before[name]]
    assert len(changed) == len(work.masks), "what is kept trains"


def test_sr_ste_moves_masks_and_ends_with_the_rule(dense: LoadedModel, around: Context) -> None:
    fixed = worked(dense, around)
    around = replace(around, checkpoints=Checkpoints(around.checkpoints.folder / "another", "test"))
    free = worked(dense, around, "prune.2of4.training=sr-ste")
    assert free.steps[1] == "MaskNM(2:4, SR-STE)"
    assert rule_holds(free)
    assert free.masks.keys() == fixed.masks.keys()
    assert any(not torch.equal(free.masks[name], fixed.masks[name]) for name in fixed.masks)
    heard: list[str] = []
    listening = replace(around, log=RunLog(emit=lambda event, fields: heard.append(event)))
    resumed = worked(dense, listening, "prune.2of4.training=sr-ste")
    assert "epoch" not in heard, "its training was found finished"
    state = resumed.model.module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in free.model.module.state_dict().items())
    assert free.regrow is None, "a later training would hold the masks that were found"
    later = run_step(TRAIN, free, around)
    assert all(torch.equal(later.masks[name], free.masks[name]) for name in free.masks)
    assert rule_holds(later)


def test_channels_first_leave_widths_that_stay_eligible(dense: LoadedModel, around: Context) -> None:
    work = worked(dense, around, "prune.target={macs: 70%}")
    assert work.steps[:2] == ("SelectChannels(l1)", "RemoveChannels")
    shapes = [tuple(weight.shape) for name, weight in work.model.module.named_parameters() if name in work.masks]
    assert len(shapes) == 6
    assert all(k % 8 == 0 and c % 16 == 0 for k, c, *_ in shapes)
    assert min(k for k, *_ in shapes) < 64
    assert sum(weight.numel() for weight in work.model.module.parameters()) < 0.9 * work.baseline.cost.params
    assert rule_holds(work)


def test_a_model_without_a_layer_to_mask_is_refused(dense: LoadedModel, around: Context) -> None:
    recipe = read_recipe("2of4", ["prune.2of4.dense=['*']", "prune.2of4.permute=false"])
    (step,) = recipe.method.steps(recipe.pruning_target(8))
    with raises_error(ModelError, "nothing-to-mask/no-eligible-layer", "2:4", "left dense by the recipe"):
        run_step(step, initial_state(dense, around), around)


def test_widths_of_its_own_only_where_the_recipe_leaves_them_to_the_target() -> None:
    steps = methods()["2of4"]().steps
    auto = read_recipe("2of4", ["prune.target={macs: 50%}"]).pruning_target(8)
    named = read_recipe("2of4", ["prune.target={macs: 50%}", "prune.round_to=4"]).pruning_target(4)
    assert [steps(each)[0].target.round_to for each in (auto, named)] == [16, 4]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Everything at once: channels, order, masks, packed weights; not retrained, since no data is given."""
    out = tmp_path_factory.mktemp("run") / "out"
    recipe = read_recipe(
        "2of4-channels",
        ["prune.target={macs: 70%}", "prune.2of4.packed=true", "prune.2of4.rounds=1", "bench.target=none"],
    )
    compress_model("cifar:resnet8@digits", recipe, out, RunOptions())
    return out, json.loads((out / "report.json").read_text())


def test_verify_checks_the_rule_in_both_files(finished: tuple[Path, dict[str, Any]]) -> None:
    checks = {check["name"]: check for check in verifying.verify_folder(finished[0], emit=silent)["checks"]}
    assert all(check["ok"] for check in checks.values()), checks
    assert checks["2:4 in slim.safetensors"]["detail"] == "6 of 6 masked layers"
    assert {"certificate", "parity", "2:4 in model.onnx"} <= checks.keys()


def test_the_report_says_what_was_kept_and_what_to_expect(finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    sparsity = report["sparsity"]
    assert report["steps"] == ["SelectChannels(l1)", "RemoveChannels", "PermuteChannels(2:4)", "MaskNM(2:4)"]
    assert report["certificate"]["kind"] == "masked-dense-float64+reordered-float64+masked-weights"
    assert (sparsity["pattern"], sparsity["eligible"], sparsity["onnx_initializers"]) == ([2, 4], 6, 6)
    assert 2 * sparsity["zeros"] == sparsity["masked_weights"]
    kept = sparsity["kept_percent"]
    assert kept["first"] < kept["now"] < kept["bound"]
    assert {each["name"]: each["reason"] for each in sparsity["layers"] if each["reason"]} == {
        "conv1": "depthwise: a single input channel a filter",
        "linear": "10 outputs, not a multiple of 8",
    }
    assert "expected at most" in sparsity["predicted"]
    page = (out / "report.html").read_text()
    assert "expected at most" in page


def test_the_onnx_file_names_its_layers_and_shows_their_zeros(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    metadata = {each.key: each.value for each in onnx.load(out / "model.onnx").metadata_props}
    assert metadata["sparsity"] == "2:4"
    assert len(metadata["sparsity_layers"].split()) == 6
    slim, dense = (inspecting.inspect_onnx(out / name) for name in ("model.onnx", "dense.onnx"))
    assert (slim["hold"], slim["eligible"]) == (6, 6)
    assert (dense["hold"], dense["eligible"]) == (0, 6)
    _, missing = find_nm_weights(out / "dense.onnx", RUNTIMES["tensorrt-ampere"], TWO_FOUR, [(16, 16, 3, 3)])
    assert missing == [(16, 16, 3, 3)]


def test_int8_keeps_the_zeros_and_nearly_all_of_the_accuracy(
    dense: LoadedModel, around: Context, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = finished
    assert around.data is not None
    calibration = list(around.data.calibration_batches(64, images=256))
    quantize_int8(out / "model.onnx", tmp_path / "sparse.onnx", calibration)
    shapes = [(16, 16, 3, 3)] * 2
    held, missing = find_nm_weights(tmp_path / "sparse.onnx", RUNTIMES["tensorrt-ampere"], TWO_FOUR, shapes)
    assert (held, missing) == (6, [])
    assert (tmp_path / "sparse.onnx").stat().st_size < 0.5 * (out / "model.onnx").stat().st_size
    module = quantize_int8(out / "dense.onnx", tmp_path / "dense.onnx", calibration)
    metric = around.data.task.metric
    found = evaluate(module, around.data.val_batches(64), metric)
    assert abs(found - evaluate(dense.module, around.data.val_batches(64), metric)) < 2
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"sparse.onnx", "dense.onnx"}


def test_inspect_tells_people_of_an_onnx_file(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    assert cli.run(["inspect", str(out / "model.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hold"] == 6
    assert cli.run(["inspect", str(out / "model.onnx")]) == 0
    assert "2:4 rule" in capsys.readouterr().out


def test_packed_weights_are_smaller_and_load_to_what_was_exported(finished: tuple[Path, dict[str, Any]]) -> None:
    """Exporting folds normalisation into the weights, filter by filter: the zeros are where they were."""
    out, report = finished
    module = compressor.load(out)
    assert (out / "slim.safetensors").stat().st_size < 0.65 * 4 * report["slim"]["params"]
    exported = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(out / "model.onnx").graph.initializer}
    masked = [f"{each['name']}.weight" for each in report["sparsity"]["layers"] if each["kept"]]
    assert len(masked) == 6
    for name in masked:
        assert np.array_equal(exported[name] == 0, (module.get_parameter(name) == 0).numpy()), name


def test_plan_says_it_before_any_training(dense: LoadedModel, around: Context) -> None:
    recipe = read_recipe("2of4", ["bench.target=none"])
    plan = planning.plan_run("cifar:resnet8@digits", recipe, data=None, trust_pickle=False, emit=silent)
    assert plan["steps"] == ["PermuteChannels(2:4)", "MaskNM(2:4)"]
    assert plan["target"] == "no channels"
    assert plan["sparsity"] is not None
    assert plan["sparsity"].startswith("tensorrt-ampere: eligible: 6 of 8 layers with 99% of the MACs, expected at ")
    measured_here = read_recipe("2of4")
    _, mask = measured_here.method.steps(measured_here.pruning_target(8))
    work = run_step(mask, initial_state(dense, replace(around, data=None)), around)
    for provider, row in (("cpu", "cpu"), ("CUDAExecutionProvider", "cuda"), ("xnnpack", "other")):
        said = predicted_speedup(work, provider)
        assert said is not None
        assert said.startswith(f"size only: no speed-up on this runtime (onnxruntime-{row}: ")
        assert said.endswith(plan["sparsity"])
    on_tensorrt = predicted_speedup(work, "TensorrtExecutionProvider")
    assert on_tensorrt is not None
    assert on_tensorrt.startswith("tensorrt-ampere: eligible: 6 of 8 layers")
    assert "trt_sparsity_enable: 1" in on_tensorrt


def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x"], ["y"])], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    with raises_error(ModelError, "onnx-model/not-onnx", "m.onnx"):
        inspecting.inspect_onnx(tmp_path / "m.onnx")


def test_settings_of_the_steps_are_the_recipes() -> None:
    recipe = read_recipe("2of4", ["prune.2of4.dense=[fc]", "prune.2of4.pattern=[1, 4]"])
    permute, mask = recipe.method.steps(recipe.pruning_target(8))
    assert permute.sparsity == mask.sparsity == NMSparsity(NMPattern(1, 4), "tensorrt-ampere", ("fc",))  # type: ignore[union-attr]
    assert str(mask) == "MaskNM(1:4)"
