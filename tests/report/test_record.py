"""report.json: the contract's keys and types, the numbers by hand, and nothing JSON has no form for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from compressor.atomic_write import write_json
from compressor.core import ChannelGroup, Comparison, Cost, Freeze, PrunePlan, TensorSlot, Verdict
from compressor.report.bench_result import bench_record
from compressor.report.findings.base import finite, finite_interval
from compressor.report.findings.latency import latency_ratio, latency_record
from compressor.report.findings.layer_widths import layer_widths
from compressor.report.findings.model_size import size_ratios
from compressor.report.findings.prunable_groups import coverage_record

NUMBER = (int, float)
MAYBE = (int, float, type(None))

CONTRACT = {
    "version": int,
    "model": str,
    "method": str,
    "steps": list,
    "dense": {"params": int, "macs": int, "onnx_bytes": int, "accuracy": MAYBE, "metric": MAYBE},
    "slim": {"params": int, "macs": int, "onnx_bytes": int, "accuracy": MAYBE, "metric": MAYBE},
    "metric": {"name": str, "unit": str, "higher_is_better": bool},
    "ratios": {"params": NUMBER, "macs": NUMBER, "latency": MAYBE, "latency_ci95": (list, type(None))},
    "certificate": {"kind": str, "max_abs_error": NUMBER, "ok": bool},
    "onnx": {"opset": int, "max_abs_error": NUMBER, "ok": bool},
    "accuracy_steps": {
        "dense": MAYBE,
        "after surgery": MAYBE,
        "after recalibration": MAYBE,
        "after retraining": MAYBE,
    },
    "groups": {"total": int, "pruned": int, "frozen": list},
    "bench": {
        "target": str,
        "runtime": (str, type(None)),
        "provider": (str, type(None)),
        "threads": (int, type(None)),
        "batch": (int, type(None)),
        "verdict": str,
        "verdict_kind": (str, type(None)),
    },
    "seconds": dict,
    "environment": {"python": str, "torch": str, "onnxruntime": str, "cpu": str, "seed": int},
    "warnings": list,
}


def check(shape: dict, value: dict, place: str = "report") -> None:
    for key, kind in shape.items():
        assert key in value, f"{place}.{key} is missing"
        if isinstance(kind, dict):
            check(kind, value[key], f"{place}.{key}")
        else:
            assert isinstance(value[key], kind), f"{place}.{key} is {value[key]!r}"


@pytest.mark.parametrize("name", ["trained", "untrained"])
def test_the_contract_keys_survive_json(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report = request.getfixturevalue(name).report
    write_json(tmp_path / "report.json", report)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == report
    check(CONTRACT, read)
    assert all(set(each) == {"name", "reason"} for each in read["groups"]["frozen"])
    for side in (read["dense"], read["slim"]):
        latency = side["latency_ms"]
        assert latency is None or (latency["p50"] > 0 and latency["p90"] > 0 and latency["n"] == 1800)


def test_numbers_of_a_measured_run(trained) -> None:
    report = trained.report
    assert report["ratios"]["params"] == pytest.approx(853_018 / 428_074)
    assert report["ratios"]["latency"] == 1.604
    assert report["ratios"]["latency_ci95"] == [1.571, 1.633]
    assert report["dense"]["accuracy"] == 91.42
    assert report["slim"]["accuracy"] == report["slim"]["metric"] == 90.88  # the last stage's
    assert report["accuracy_steps"] == report["metric_steps"]
    assert report["metric"] == {"name": "accuracy", "unit": "%", "higher_is_better": True}
    assert (report["groups"]["total"], report["groups"]["pruned"]) == (31, 27)
    assert report["groups"]["frozen"] == [{"name": "linear", "reason": "these are the model's outputs"}]
    assert report["retrained"]
    assert report["warnings"] == []
    assert report["notes"][2:] == ["the exporter refused einsum; it was rewritten"]  # said once, not for each file


def test_what_was_not_done_is_said(untrained) -> None:
    report = untrained.report
    assert [text.split(":")[0] for text in report["warnings"]] == ["not retrained", "accuracy not measured"]
    assert not report["retrained"]
    assert report["bench"]["target"] == "none"
    assert report["bench"]["verdict"] == "not measured"
    assert report["ratios"]["latency"] is None
    assert report["slim"]["latency_ms"] is None


def test_an_unstable_measurement_has_no_ratio(comparison: Comparison) -> None:
    shaky = dataclasses.replace(comparison, verdict=Verdict("unstable", "unstable: control 1.09"))
    assert latency_ratio(shaky) == {"latency": None, "latency_ci95": None}
    assert bench_record(shaky, ["a.onnx", "b.onnx"])["ratio"] is None


def test_a_ratio_without_an_interval_is_not_told(comparison: Comparison) -> None:
    lone = dataclasses.replace(comparison, ratio_ci95=None)
    assert latency_ratio(lone)["latency"] is None


def test_nothing_left_has_no_ratio() -> None:
    assert size_ratios(Cost(10, 20), Cost(5, 0)) == {"params": 2.0, "macs": None}


def test_one_file_benched(comparison: Comparison) -> None:
    alone = dataclasses.replace(comparison, b=None, ratio=None, ratio_ci95=None, control=None, control_ci95=None)
    made = bench_record(alone, ["a.onnx"])
    assert made["b"] is None
    assert made["ratio"] is None
    assert "samples" not in made["a"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_not_a_number_becomes_null(value: float | None) -> None:
    assert finite(value) is None
    assert value is None or finite_interval((1.0, value)) is None


def test_latency_of_nothing() -> None:
    assert latency_record(None) is None


# ---------------------------------------------------------------- widths


def slot(tensor: str, positions: list[list[int]], role: str = "writer") -> TensorSlot:
    return TensorSlot(tensor, 0, np.array(positions), role)


def test_widths_in_the_models_order_with_entries_counted() -> None:
    groups = [
        ChannelGroup("late", 2, (slot("late.weight", [[0], [1]]), slot("x.weight", [[0], [1]], "reader"))),
        ChannelGroup("early", 3, (slot("early.weight", [[0, 1], [2, 3], [4, 5]]),)),
    ]
    plan = PrunePlan({"early": np.array([True, False, True])})
    assert layer_widths(groups, plan.kept, ["early.weight", "late.weight"]) == [
        {"name": "early", "before": 6, "after": 4, "frozen": False},
        {"name": "late", "before": 2, "after": 2, "frozen": False},
    ]


def test_a_layer_shared_by_groups_is_the_sum_and_frozen_only_if_all_are() -> None:
    groups = [
        ChannelGroup("q", 2, (slot("qkv.weight", [[0], [1]]),)),
        ChannelGroup("v", 3, (slot("qkv.weight", [[2], [3], [4]]),), frozen=Freeze("model", "a reason")),
        ChannelGroup("head", 1, (slot("head.weight", [[0]]),), frozen=Freeze("model", "outputs")),
    ]
    plan = PrunePlan({"q": np.array([True, False])})
    assert layer_widths(groups, plan.kept, ["qkv.weight", "head.weight"]) == [
        {"name": "qkv", "before": 5, "after": 4, "frozen": False},
        {"name": "head", "before": 1, "after": 1, "frozen": True},
    ]


def test_what_the_model_allows_and_what_the_recipe_freezes_are_two_facts(macs_by_group: type) -> None:
    by_model = [
        ChannelGroup("a", 2, (slot("a.weight", [[0], [1]]),)),
        ChannelGroup("b", 3, (slot("b.weight", [[0], [1], [2]]),)),
        ChannelGroup("head", 1, (slot("head.weight", [[0]]),), frozen=Freeze("model", "outputs")),
    ]
    by_recipe = [by_model[0], dataclasses.replace(by_model[1], frozen=Freeze("recipe", "match: b")), by_model[2]]
    cost = macs_by_group({"a": 3_000, "b": 2_000, "head": 500}, by_model)
    coverage = coverage_record(by_recipe, cost)
    assert coverage == {
        "layers": 3,
        "prunable_layers": 1,
        "channels": 6,
        "prunable_channels": 2,
        "prunable_macs_percent": pytest.approx(30.0),
        "frozen_macs": [
            {"reason": "match: b", "groups": 1, "channels": 3, "macs_percent": pytest.approx(20.0)},
            {"reason": "outputs", "groups": 1, "channels": 1, "macs_percent": pytest.approx(5.0)},
        ],
        "model": {"groups": 2, "channels": 5, "macs_percent": pytest.approx(50.0)},
        "recipe": {"groups": 1, "channels": 3, "macs_percent": pytest.approx(20.0)},
    }
    assert coverage_record(by_model, cost)["recipe"] is None


def test_groups_without_scores_are_not_frozen_by_the_recipe(macs_by_group: type) -> None:
    groups = [
        ChannelGroup("a", 2, (slot("a.weight", [[0], [1]]),)),
        ChannelGroup("b", 3, (slot("b.weight", [[0], [1], [2]]),), frozen=Freeze("criterion", "no score")),
    ]
    coverage = coverage_record(groups, macs_by_group({"a": 3_000, "b": 2_000}, groups))
    assert coverage["recipe"] is None
    assert (coverage["model"]["groups"], coverage["prunable_layers"]) == (2, 1)
