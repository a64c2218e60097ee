"""Several choices and removals in one run: together they are one cut of the model the run began with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.budget.layer_rules import LayerRule
from compressor.budget.target import PruningTarget
from compressor.commands.plan import plan_run
from compressor.core import Freeze, LoadedModel, ModelSpec, one_image
from compressor.criteria.magnitude import l1
from compressor.errors import ModelError
from compressor.graph.cost import count_cost
from compressor.models.inputs.example_inputs import example_inputs
from compressor.recipe import read_recipe
from compressor.run_log import RunLog
from compressor.steps.base import Step
from compressor.steps.context import Context
from compressor.steps.narrow_layers import warn_of_narrow_layers
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.steps.train import Train
from compressor.surgery.certificate import verify_against_original
from compressor.surgery.removal import relative_kept, remove_channels, removed_per_group
from compressor.training.schedules import constant
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import Shortcut, toy_data


def small() -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(Shortcut().eval(), ModelSpec("net", one_image((3, 8, 8))), "it")


def run(model: LoadedModel, tmp_path: Path, *steps: Step, data: bool = False) -> PruningState:
    around = Context(toy_data(40) if data else None, 0, RunLog(), Checkpoints(tmp_path, ""))
    work = initial_state(model, around)
    for step in steps:
        work = run_step(step, work, around)
    return work


def rounds(*selections: PruningTarget) -> list[Step]:
    last = selections[-1]
    return [step for each in selections for step in (SelectChannels(l1, each), RemoveChannels(last=each is last))]


def narrow_layers(state: PruningState, target: PruningTarget) -> list[str]:
    log = RunLog()
    warn_of_narrow_layers(state, target, log)
    return log.warnings


def test_layers_that_rounds_leave_narrow_are_one_warning(tmp_path: Path) -> None:
    last = PruningTarget(nodes=0.15, scope="global")
    state = run(small(), tmp_path, *rounds(PruningTarget(nodes=0.4, scope="global"), last))
    assert state.removed is not None
    narrow = {
        name: f"{name} ({kept_C.sum()} of {len(kept_C)})"
        for name, kept_C in state.removed.kept.items()
        if kept_C.mean() < 0.25
    }
    (warning,) = narrow_layers(state, last)
    assert len(narrow) > 1
    assert all(text in warning for text in narrow.values())
    assert "raise the target" in warning, "lowering it removes more"
    ratio = tuple(LayerRule(name, ratio=0.9) for name in narrow)
    assert narrow_layers(state, replace(last, rules=ratio)) == [], "the recipe says so itself"
    assert narrow_layers(state, replace(last, scope="error")) == []


def test_a_run_and_a_plan_warn_once_of_layers_that_rounds_leave_narrow() -> None:
    warnings = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        if event == "warning" and "quarter" in str(fields["text"]):
            warnings.append(fields["text"])

    recipe = read_recipe("l1", ["prune={method: gatedecorators, target: {macs: 5%}}", "bench.target=none"])
    plan_run("cifar:resnet8@digits", recipe, data="digits", trust_pickle=False, emit=emit)
    assert len(warnings) == 1


def test_rounds_compose_to_one_cut_of_the_first_model(tmp_path: Path) -> None:
    model = small()
    work = run(model, tmp_path, *rounds(*(PruningTarget(nodes=share, scope="global") for share in (0.8, 0.6, 0.4))))
    assert work.removed is not None
    once = remove_channels(model.module, work.baseline.graph, work.removed)
    state = work.model.module.state_dict()
    assert all(torch.equal(each, state[name]) for name, each in once.state_dict().items())
    assert count_cost(once, *example_inputs(model)).nodes <= 0.4 * work.baseline.cost.nodes
    assert verify_against_original(work.model.module, small().module, work.model.kept, *example_inputs(model)).ok
    assert work.certificate is not None
    assert work.certificate.kind == "masked-dense-float64"
    assert work.certificate.ok


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_ratio_is_a_share_of_what_there_was_at_first(tmp_path: Path, scope: str) -> None:
    selections = [PruningTarget(ratio=ratio, scope=scope) for ratio in (0.2, 0.35, 0.5)]  # type: ignore[arg-type]
    work = run(small(), tmp_path, *rounds(*selections))
    assert work.removed is not None
    free = [group for group in work.baseline.groups if group.frozen is None]
    gone = {name: int((~kept).sum()) for name, kept in work.removed.kept.items()}
    if scope == "local":
        assert gone == {group.name: math.ceil(0.5 * group.size) for group in free}
    else:
        assert sum(gone.values()) == math.ceil(0.5 * sum(group.size for group in free))


def test_rules_hold_in_every_round_and_their_ratios_do_not_compound(tmp_path: Path) -> None:
    rules = (LayerRule("inner", ratio=0.5),)
    work = run(small(), tmp_path, *rounds(*(PruningTarget(nodes=share, rules=rules) for share in (0.7, 0.5))))
    assert work.removed is not None
    assert {name: int(kept.sum()) for name, kept in work.removed.kept.items()} == {"inner": 8, "stem": 6}
    rules = (LayerRule("stem", freeze=True),)
    work = run(small(), tmp_path, *rounds(*(PruningTarget(nodes=share, rules=rules) for share in (0.9, 0.8))))
    assert work.removed is not None
    assert {name: int(kept.sum()) for name, kept in work.removed.kept.items()} == {"inner": 8}
    assert [group.frozen for group in work.baseline.groups if group.name == "stem"] == [
        Freeze("recipe", "frozen by the recipe (match: stem)")
    ]


def test_rules_for_layers_of_which_one_channel_is_left_stay_quiet(tmp_path: Path) -> None:
    rules = (LayerRule("inner", ratio=0.95),)
    work = run(small(), tmp_path, *rounds(*(PruningTarget(nodes=share, rules=rules) for share in (0.5, 0.4))))
    assert work.removed is not None
    assert int(work.removed.kept["inner"].sum()) == 1


def test_a_round_may_take_nothing_but_not_all_of_them(tmp_path: Path) -> None:
    work = run(small(), tmp_path, *rounds(PruningTarget(nodes=0.5), PruningTarget(nodes=0.5)))
    assert count_cost(work.model.module, *example_inputs(work.model)).nodes <= 0.5 * work.baseline.cost.nodes
    with raises_error(ModelError, "nothing-to-prune/target-removes-nothing", "2"):
        run(small(), tmp_path, *rounds(PruningTarget(nodes=1.0), PruningTarget(nodes=1.0)))


def test_the_test_set_is_read_after_the_last_round_only(tmp_path: Path) -> None:
    work = run(small(), tmp_path, *rounds(PruningTarget(nodes=0.8), PruningTarget(nodes=0.6)), data=True)
    assert list(work.quality) == ["dense", "after surgery"]
    first = run(small(), tmp_path, SelectChannels(l1, PruningTarget(nodes=0.8)), RemoveChannels(last=False), data=True)
    assert list(first.quality) == ["dense"]


def test_training_between_rounds_keeps_what_its_optimizer_remembers(tmp_path: Path) -> None:
    training = Train(8, OptimizerSettings("sgd", 0.01, momentum=0.9), constant(), epochs=1, stage="between")
    first, second = rounds(PruningTarget(nodes=0.8))[:2], rounds(PruningTarget(nodes=0.6))
    work = run(small(), tmp_path, *first, training, *second, data=True)
    shapes = {name: each.shape for name, each in work.model.module.named_parameters()}
    assert {name: each["momentum_buffer"].shape for name, each in work.optimizer.items()} == shapes


def test_channels_gone_are_told_by_the_group_of_the_first_model(tmp_path: Path) -> None:
    work = run(small(), tmp_path, *rounds(PruningTarget(ratio=0.25)))
    assert work.removed is not None
    again = run(work.model, tmp_path).baseline.graph.groups
    gone = removed_per_group(again, work.baseline.groups, work.removed, relative_kept({}, work.model.kept))
    assert gone == {"stem": 3, "inner": 4, "head": 0}


def test_a_group_under_a_new_name_has_lost_what_it_lost_under_the_old_one(tmp_path: Path) -> None:
    work = run(small(), tmp_path, *rounds(PruningTarget(ratio=0.25)))
    assert work.removed is not None
    again = run(work.model, tmp_path).baseline.graph.groups
    renamed = [replace(group, name="trunk") if group.name == "stem" else group for group in again]
    gone = removed_per_group(renamed, work.baseline.groups, work.removed, relative_kept({}, work.model.kept))
    assert gone == {"trunk": 3, "inner": 4, "head": 0}


def test_kept_indices_are_told_in_the_numbering_of_any_model_between() -> None:
    assert relative_kept({"w": {0: (1, 4, 6)}}, {"w": {0: (1, 6), 1: (2,)}}) == {"w": {0: (0, 2), 1: (2,)}}


def test_a_model_pruned_before_is_what_its_plan_is_of(tmp_path: Path) -> None:
    before = run(small(), tmp_path, *rounds(PruningTarget(nodes=0.8))).model
    work = run(before, tmp_path, *rounds(PruningTarget(nodes=0.6), PruningTarget(nodes=0.4)))
    assert work.removed is not None
    once = remove_channels(before.module, work.baseline.graph, work.removed)
    state = work.model.module.state_dict()
    assert all(torch.equal(each, state[name]) for name, each in once.state_dict().items())
    assert verify_against_original(work.model.module, small().module, work.model.kept, *example_inputs(before)).ok


def test_norms_that_mix_channels_may_be_needed_by_a_later_round_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.GroupNorm(1, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()  # fmt: skip
    model = LoadedModel(module, ModelSpec("net", one_image((3, 8, 8))), "it")
    work = run(model, tmp_path, *rounds(PruningTarget(nodes=0.8), PruningTarget(nodes=0.4)))
    assert work.removed is not None
    assert {name: int(kept.sum()) for name, kept in work.removed.kept.items()}.keys() == {"0", "2"}
    assert all(group.frozen is None for group in work.baseline.groups if group.name in work.removed.kept)
    assert work.certificate is not None
    assert work.certificate.kind == "masked-dense-float64+restricted-dense-float64"
