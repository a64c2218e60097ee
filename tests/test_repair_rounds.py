"""Rounds of selection, removal and repair: their number is chosen by the divergence on held-out samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from failures import raises_error

from compressor.agreement import measure_agreement
from compressor.budget.target import PruningTarget
from compressor.criteria import channel_criteria
from compressor.errors import RecipeError
from compressor.methods._rounds import repair_schedules
from compressor.recipe import read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.refine import Refine
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.repair_rounds import RepairRounds
from compressor.steps.run import run_step
from compressor.steps.select_channels import SelectChannels
from tests.test_error_scope import start


def test_auto_tries_two_rounds_where_less_than_half_remains() -> None:
    assert [len(targets) for targets in repair_schedules(PruningTarget(macs=0.5), "auto")] == [1]
    one, two = repair_schedules(PruningTarget(macs=0.36), "auto")
    assert one == (PruningTarget(macs=0.36),)
    assert [target.macs for target in two] == pytest.approx([0.6, 0.36])
    assert [len(targets) for targets in repair_schedules(PruningTarget(ratio=0.75), "auto")] == [1, 2]
    assert [len(targets) for targets in repair_schedules(PruningTarget(params=0.9), 3)] == [3]
    assert [len(targets) for targets in repair_schedules(PruningTarget(latency=0.3), 3)] == [1]


def test_recipes_have_rounds_only_with_a_repair() -> None:
    few = read_recipe("minutes", ["prune={method: l1, rounds: auto, target: {macs: 35%}}"])
    assert any(isinstance(step, RepairRounds) for step in build_steps(few, 1, retrain=True, trained=True))
    assert not any(isinstance(step, RepairRounds) for step in build_steps(few, 1, retrain=False))
    half = read_recipe("minutes", ["prune={method: l1, rounds: auto, target: {macs: 50%}}"])
    steps = build_steps(half, 1, retrain=True, trained=True)
    assert [type(step) for step in steps] == [SelectChannels, RemoveChannels, Reconstruct, Refine]
    with raises_error(RecipeError, "recipe/not-allowed", "prune.rounds", "tpp"):
        read_recipe("tpp", ["prune.rounds=2"])


def test_the_schedule_with_the_smaller_divergence_is_kept(tmp_path: Path) -> None:
    state, context = start(tmp_path)
    select = SelectChannels(channel_criteria()["obs"], PruningTarget(macs=0.4, scope="error"))
    repair = Reconstruct(images=64)
    schedules = repair_schedules(select.target, "auto")
    results = [
        run_step(RepairRounds(select, repair, (targets,)), state, context, evaluates=False) for targets in schedules
    ]
    best = run_step(RepairRounds(select, repair, schedules), state, context, evaluates=False)
    assert best.selections in (1, 2)
    assert best.certificate is not None
    assert best.certificate.ok
    judged = list(context.training_data.calibration_batches(64, images=320))[-4:]
    divergences = [
        measure_agreement(state.model.module, result.model.module, judged).divergence for result in (*results, best)
    ]
    assert divergences[2] == pytest.approx(min(divergences[:2]))
