"""What cannot be met is told before the training that comes first, not after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from failures import raises_error

from compressor.budget.layer_rules import LayerRule
from compressor.budget.target import PruningTarget
from compressor.commands.plan import plan_run
from compressor.core import ChannelGroup, Freeze, LoadedModel, ModelSpec, one_image
from compressor.errors import ModelError, RecipeError, TargetNotReached
from compressor.methods import methods
from compressor.pipeline import compress_model
from compressor.recipe import read_recipe
from compressor.run_log import RunLog
from compressor.run_options import RunOptions
from compressor.steps.context import Context
from compressor.steps.remove_channels import INSPECT, nothing_to_prune
from compressor.steps.run import check_feasible, initial_state
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import Shortcut


def ahead(name: str, selection: PruningTarget, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LoadedModel(Shortcut().eval(), ModelSpec("net", one_image((3, 8, 8)), 4), "it")
    around = Context(None, 0, RunLog(), Checkpoints(tmp_path, ""))
    check_feasible(methods()[name]().steps(selection), initial_state(model, around), around)


@pytest.mark.parametrize("name", ["earlycrop-s", "earlybird", "gatedecorators"])
def test_channels_that_cannot_go_are_told_before_the_training(name: str, tmp_path: Path) -> None:
    """Of 12 + 16 + 12 nodes one of each must stay: 7.5 %."""
    ahead(name, PruningTarget(nodes=0.08, scope="global"), tmp_path)
    with raises_error(TargetNotReached, "target-not-reachable/beyond-maximum", "nodes", "7.5%", "7.0%"):
        ahead(name, PruningTarget(nodes=0.07, scope="global"), tmp_path)
    with raises_error(
        RecipeError, "recipe-does-not-fit-the-model/unmatched-layer-rule", "prune.layers", "'conv9'", "stem"
    ):
        ahead(name, PruningTarget(nodes=0.5, rules=(LayerRule("conv9", freeze=True),)), tmp_path)


def test_rules_that_freeze_everything_leave_nothing_to_prune(tmp_path: Path) -> None:
    with raises_error(ModelError, "nothing-to-prune/all-frozen", "(match: *)", "prune.layers"):
        ahead("earlybird", PruningTarget(macs=0.5, rules=(LayerRule("*", freeze=True),)), tmp_path)


def test_what_froze_all_groups_decides_the_hint() -> None:
    def hint(*frozen: Freeze) -> str:
        groups = [ChannelGroup(str(index), 4, (), freeze) for index, freeze in enumerate(frozen)]
        return nothing_to_prune("net", groups).hint

    model, recipe, criterion = (Freeze(by, "frozen by the recipe") for by in ("model", "recipe", "criterion"))
    assert hint(model) == hint() == INSPECT
    assert "prune.layers" in hint(model, recipe)
    assert "prune.layers" not in hint(model, criterion)
    assert hint(model, criterion) != INSPECT


def test_so_are_weights(tmp_path: Path) -> None:
    ahead("earlycrop-u", PruningTarget(weights=0.01), tmp_path)
    with raises_error(
        TargetNotReached, "target-not-reachable/too-few-weights", "prune.target.weights", "4 of 2,292", "0.1000%"
    ):
        ahead("earlycrop-u", PruningTarget(weights=0.001), tmp_path)


def test_times_are_not_asked_for_and_choices_without_a_training_speak_for_themselves(tmp_path: Path) -> None:
    ahead("gatedecorators", PruningTarget(latency_ms=0.001), tmp_path)
    ahead("crop-s", PruningTarget(nodes=0.01), tmp_path)


def test_a_run_ends_before_its_training(tmp_path: Path) -> None:
    recipe = read_recipe("earlybird", ["prune.target={nodes: 1%}", "bench.target=none"])
    stages: list[object] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        stages.append(fields.get("name"))

    with raises_error(TargetNotReached, "target-not-reachable/beyond-maximum", "nodes"):
        compress_model("cifar:resnet8@digits", recipe, tmp_path / "out", RunOptions(data="digits", emit=emit))
    assert "analyse" in stages
    assert not [each for each in stages if str(each).startswith("Train")]


@pytest.mark.parametrize(("name", "said"), [("earlybird", True), ("random-s", False)])
def test_a_plan_says_that_channels_are_chosen_later(name: str, said: bool) -> None:
    notes: list[str] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        notes.extend([str(fields["text"])] if event == "note" else [])

    plan_run("cifar:resnet8@digits", read_recipe(name, ["bench.target=none"]), data=None, trust_pickle=False, emit=emit)
    assert any(each.startswith("channels will be selected after early training") for each in notes) == said
