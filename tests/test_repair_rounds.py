"""Rounds of selection, removal and repair: their number is chosen by the divergence on held-out samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from failures import raises_error
from torch import Tensor

from compressor.agreement import measure_agreement
from compressor.budget.rounds import repair_schedules
from compressor.budget.target import PruningTarget
from compressor.core import Data
from compressor.criteria import channel_criteria
from compressor.data.image_data import ImageData
from compressor.errors import RecipeError
from compressor.recipe import read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.refine import Refine
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.repair_rounds import RepairRounds
from compressor.steps.run import run_step
from compressor.steps.select_channels import SelectChannels
from tests.test_error_scope import start
from tests.training.toys import toy_data


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
    judged = [inputs for inputs, _ in context.data_with_holdout.holdout_batches(64)]
    divergences = [
        measure_agreement(state.model.module, result.model.module, judged).divergence for result in (*results, best)
    ]
    assert divergences[2] == pytest.approx(min(divergences[:2]))


class Recorded:
    """Data that record which images are drawn: `drawn` has the images of one draw after the other."""

    def __init__(self, data: ImageData, drawn: list[set[bytes]]) -> None:
        self._data, self.drawn = data, drawn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def with_holdout(self, images: int) -> Recorded:
        return Recorded(self._data.with_holdout(images), self.drawn)

    def calibration_batches(self, batch_size: int, *, images: int) -> list[Tensor]:
        return self._record([*self._data.calibration_batches(batch_size, images=images)])

    def holdout_batches(self, batch_size: int, *, images: int | None = None) -> list[tuple[Tensor, Any]]:
        batches = [*self._data.holdout_batches(batch_size)]
        self._record([images for images, _ in batches])
        return batches

    def _record(self, batches: list[Tensor]) -> list[Tensor]:
        self.drawn.append({image.numpy().tobytes() for batch in batches for image in batch})
        return batches


def test_no_sample_of_the_repair_chooses_the_number_of_rounds(tmp_path: Path) -> None:
    state, context = start(tmp_path)
    data = Recorded(toy_data(600), [])
    repair = Reconstruct(images=256)
    select = SelectChannels(channel_criteria()["l1"], PruningTarget(macs=0.4))
    context = replace(context, data=cast(Data, data))
    run_step(RepairRounds(select, repair, repair_schedules(select.target, "auto")), state, context, evaluates=False)
    repaired_on = data.drawn[0]
    assert len(repaired_on) == repair.images
    assert not repaired_on & data.drawn[-1]


def test_one_round_is_kept_where_no_sample_can_be_held_out(tmp_path: Path) -> None:
    state, context = start(tmp_path, samples=2)  # one is for the test
    select = SelectChannels(channel_criteria()["l1"], PruningTarget(macs=0.4))
    rounds = RepairRounds(select, Reconstruct(images=64), repair_schedules(select.target, "auto"))
    assert run_step(rounds, state, context, evaluates=False).selections == 1
