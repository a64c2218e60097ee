"""Targets and gates: which error ends the run, and by which end of an interval a speed-up counts."""

from __future__ import annotations

from typing import Any, cast

import pytest

from compressor.core import Comparison, Cost, Latency, Metric, Verdict
from compressor.errors import AccuracyGateFailed, LatencyGateFailed, MeasurementUnstable, TargetNotReached
from compressor.output.gates import check_gates, judge_gates, worsening
from compressor.recipe import read_recipe
from compressor.report.findings import Report


def comparison(low: float, high: float, *, stable: bool = True) -> Comparison:
    latency = Latency(1.0, None, None, 10, (0.9, 1.1), 5.0, ())
    faster, unstable = Verdict("faster", f"faster 1.40x [{low}, {high}]"), Verdict("unstable", "unstable: it moved")
    verdict = faster if stable else unstable
    return Comparison(
        latency, latency, 1.4, (low, high), 1.0, (0.99, 1.01), verdict, "local", "onnxruntime", "CPU", 1, 1, {}
    )


def metric(unit: str, *, higher_is_better: bool) -> Metric:
    return Metric("it", lambda output, target: target, unit=unit, higher_is_better=higher_is_better)


PERCENT = metric("%", higher_is_better=True)


def report(*overrides: str, slim: Cost, accuracy: dict[str, float], measured: list[Comparison]) -> Report:
    recipe = read_recipe("l1", overrides)
    gates = judge_gates(recipe, Cost(params=100, macs=1000), slim, accuracy, measured, PERCENT if accuracy else None)
    return cast(Report, {"gates": gates})


HALF = Cost(params=50, macs=500)
ACCURATE = {"dense": 90.0, "after retraining": 89.5}


@pytest.mark.parametrize(
    ("overrides", "slim", "accuracy", "measured", "error"),
    [
        ([], HALF, ACCURATE, [], None),
        ([], Cost(params=50, macs=501), ACCURATE, [], TargetNotReached),
        (["prune.target={params: 49%}"], HALF, ACCURATE, [], TargetNotReached),
        (["gates.accuracy_drop=0.5%"], HALF, ACCURATE, [], None),
        (["gates.accuracy_drop=0.4%"], HALF, ACCURATE, [], AccuracyGateFailed),
        (["gates.accuracy_drop=0.4%"], HALF, {}, [], AccuracyGateFailed),
        (["gates.speedup=1.3"], HALF, ACCURATE, [comparison(1.3, 1.5)], None),
        (["gates.speedup=1.3"], HALF, ACCURATE, [comparison(1.29, 1.5)], LatencyGateFailed),
        (["gates.speedup=1.3"], HALF, ACCURATE, [comparison(1.3, 1.5, stable=False)], MeasurementUnstable),
        ([], HALF, ACCURATE, [comparison(0.5, 1.5, stable=False)], None),
        (["gates.latency_ms=1.1"], HALF, ACCURATE, [comparison(1.3, 1.5)], None),  # measured: 1.0 ms [0.9, 1.1]
        (["gates.latency_ms=1.05"], HALF, ACCURATE, [comparison(1.3, 1.5)], LatencyGateFailed),
        (["gates.latency_ms=1.1"], HALF, ACCURATE, [comparison(1.3, 1.5, stable=False)], MeasurementUnstable),
    ],
)
def test_the_first_failed_gate_ends_the_run(
    overrides: list[str], slim: Cost, accuracy: dict[str, float], measured: list[Comparison], error: Any
) -> None:
    made = report(*overrides, slim=slim, accuracy=accuracy, measured=measured)
    if error is None:
        assert check_gates(made) is made
        return
    with pytest.raises(error) as caught:
        check_gates(made)
    assert (caught.value.code == "accuracy-gate-failed/not-measured") == (not accuracy)
    failed = [gate["status"] for gate in made["gates"] if not gate["ok"]]
    assert (failed[0] == "unstable") == (error is MeasurementUnstable)
    assert (failed[0] == "unmeasured") == (not accuracy)
    assert caught.value.report is made, "the artefacts are kept, and the report says which gate failed"


@pytest.mark.parametrize(
    ("judged", "dense", "slim", "expected"),
    [
        (PERCENT, 90.0, 89.5, 0.5),
        (PERCENT, 90.0, 91.0, -1.0),
        (metric("%", higher_is_better=False), 10.0, 12.0, 2.0),  # an error rate: points all the same
        (metric("m", higher_is_better=False), 0.5, 0.6, 20.0),
        (metric("", higher_is_better=False), 0.5, 0.4, -20.0),
        (metric("", higher_is_better=True), 0.8, 0.6, 25.0),
        (metric("", higher_is_better=True), -2.0, -2.5, 25.0),
        (metric("", higher_is_better=False), 0.0, 0.0, 0.0),
        (metric("", higher_is_better=False), 0.0, 0.1, float("inf")),
        (metric("", higher_is_better=True), 0.0, 0.1, -float("inf")),
    ],
)
def test_worse_is_points_of_a_percentage_and_a_share_of_anything_else(
    judged: Metric, dense: float, slim: float, expected: float
) -> None:
    assert worsening(judged, dense, slim) == pytest.approx(expected)


def test_the_gate_of_another_metric_is_told_in_its_own_words() -> None:
    recipe = read_recipe("quickstart", ["gates.accuracy_drop=10%"])
    error = metric("m", higher_is_better=False)
    (*_, gate) = judge_gates(recipe, Cost(100, 1000), HALF, {"dense": 0.5, "after retraining": 0.6}, [], error)
    assert (gate["asked"], gate["found"], gate["ok"]) == ("at most 10.00 % of it", "20.00 % of it", False)


@pytest.mark.parametrize(
    ("target", "measured", "error"),
    [
        ("{latency: 50%}", comparison(2.0, 2.1), TargetNotReached),  # medians are both 1 ms
        ("{latency: 50%}", comparison(2.0, 2.1, stable=False), MeasurementUnstable),
        ("{latency_ms: 1.0}", comparison(1.0, 1.1), None),
        ("{latency_ms: 0.99}", comparison(1.0, 1.1), TargetNotReached),
        ("{latency_ms: 1.0, params: 49%}", comparison(1.0, 1.1), TargetNotReached),
    ],
)
def test_targets_of_latency_are_judged_by_the_medians(target: str, measured: Comparison, error: Any) -> None:
    made = report(f"prune.target={target}", slim=HALF, accuracy=ACCURATE, measured=[measured])
    if error is None:
        assert check_gates(made) is made
        return
    with pytest.raises(error):
        check_gates(made)


@pytest.mark.parametrize("name", ["size", "memory"])
def test_targets_of_bytes_are_judged_by_what_was_taken(name: str) -> None:
    recipe = read_recipe("quickstart", [f"prune.target={{{name}: 50%}}"])
    original = Cost(params=100, macs=1000)
    for slim, ok in ((50, True), (51, False)):
        (gate,) = judge_gates(recipe, original, HALF, ACCURATE, [], None, {name: (100, slim)})
        assert gate["ok"] is ok
