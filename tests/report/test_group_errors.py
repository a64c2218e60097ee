"""Error curves in the report, in a plan and in the run's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compressor.commands.softer_targets import agreement_at_risk, softer_targets
from compressor.core import ErrorCurve, ErrorCurves
from compressor.recipe import read_recipe
from compressor.report.findings.group_errors import BARS, curves_figure, curves_json, curves_record, curves_table
from compressor.steps.run import run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import BlockSelection
from tests.test_error_scope import start

CURVES = ErrorCurves(
    {
        "a": ErrorCurve(np.array([1, 0, 2]), np.array([0.0, 0.1, 0.4]), sensitivity=2.0),
        "b": ErrorCurve(np.array([0, 1]), np.array([0.0, 0.5]), sensitivity=0.1, note="guessed"),
    },
    samples=20,
    flips=0.25,
    removed={"a": 2, "b": 1},
)


def test_the_record_has_predictions_for_the_chosen_widths() -> None:
    assert curves_record(None) is None
    record = curves_record(CURVES)
    assert record is not None
    assert record["divergence"] == pytest.approx(0.85)
    assert record["agreement"] == pytest.approx(100 * (1 - 0.25 * 0.85**0.5))
    assert [(group["name"], group["kept"]) for group in record["groups"]] == [("a", 1), ("b", 1)]
    assert record["groups"][0]["curve"] == [(1, 0.8), (2, 0.2), (3, 0.0)]
    assert record["groups"][1]["note"] == "guessed"
    assert curves_json(CURVES)["a"] == {
        "order": [1, 0, 2], "errors": [0.0, 0.1, 0.4], "sensitivity": 2.0, "removed": 2, "note": "",
    }  # fmt: skip


def test_curves_are_drawn_in_text_and_as_a_figure() -> None:
    record = curves_record(CURVES)
    assert record is not None
    rows = curves_table(record).rows
    drawn = rows[0][-1]
    assert (drawn[0], drawn[-1]) == (BARS[-1], BARS[0])
    assert curves_table(record, ascii_only=True).rows[0][-1].isascii()
    picture = str(curves_figure(record["groups"]).picture)
    assert picture.count("<circle") == picture.count("<path") == 2


def test_names_in_the_figure_do_not_overlap() -> None:
    record = curves_record(CURVES)
    assert record is not None
    most = {**record["groups"][0], "kept": 2, "divergence": 1.0}
    near, far = {**most, "name": "near", "divergence": 0.98}, {**most, "name": "far", "divergence": 0.3}
    picture = str(curves_figure([most, near, far]).picture)
    assert picture.count("<circle") == 3
    assert f">{most['name']}<" in picture
    assert ">far<" in picture
    assert ">near<" not in picture


def test_a_plan_says_which_target_holds_the_gate(tmp_path: Path) -> None:
    baseline, context = start(tmp_path)
    recipe = read_recipe("l1", ["prune={method: l1, criterion: obs, scope: error, target: {macs: 40%}, round_to: 1}"])
    (step,) = (step for step in recipe.method_steps(1) if isinstance(step, SelectChannels))
    state = run_step(step, baseline, context, evaluates=False)
    softer = softer_targets(baseline, state, recipe, 1)
    assert [entry["target"] for entry in softer] == ["macs 55%", "macs 70%"]
    dropped = BlockSelection((), ("layer1",))
    assert softer_targets(baseline, replace(state, blocks=dropped), recipe, 1) == [], "the curves do not know of it"
    assert state.errors is not None
    values = [state.errors.divergence(state.errors.removed), *(entry["divergence"] for entry in softer)]
    assert values == sorted(values, reverse=True)
    assert agreement_at_risk(recipe, state, softer) is None
    strict = read_recipe("l1", ["gates.agreement=99.9%"])
    certain = replace(state, errors=replace(state.errors, flips=10.0))
    assert "99.9" in str(agreement_at_risk(strict, certain, softer))
