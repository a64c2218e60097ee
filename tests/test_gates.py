"""Targets and gates: which error ends the run, and by which end of an interval a speed-up counts."""

from __future__ import annotations

from typing import Any, cast

import pytest

from compressor.core import Comparison, Cost, Latency
from compressor.errors import AccuracyGateFailed, LatencyGateFailed, MeasurementUnstable, TargetNotReached
from compressor.gates import close, judge
from compressor.recipe import read_recipe
from compressor.report.schema import Report


def comparison(low: float, high: float, *, stable: bool = True) -> Comparison:
    latency = Latency(1.0, None, None, 10, (0.9, 1.1), 5.0, ())
    verdict = f"faster 1.40x [{low}, {high}]" if stable else "unstable: the control moved"
    return Comparison(
        latency, latency, 1.4, (low, high), 1.0, (0.99, 1.01), verdict, stable, "local", "onnxruntime", "CPU", 1, 1, {}
    )


def report(*overrides: str, slim: Cost, accuracy: dict[str, float], measured: list[Comparison]) -> Report:
    recipe = read_recipe("quickstart", overrides)
    gates = judge(recipe, Cost(params=100, macs=1000), slim, accuracy, measured)
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
    ],
)
def test_the_first_failed_gate_ends_the_run(
    overrides: list[str], slim: Cost, accuracy: dict[str, float], measured: list[Comparison], error: Any
) -> None:
    made = report(*overrides, slim=slim, accuracy=accuracy, measured=measured)
    if error is None:
        assert close(made) is made
        return
    with pytest.raises(error) as caught:
        close(made)
    assert caught.value.report is made, "the artefacts are kept, and the report says which gate failed"
