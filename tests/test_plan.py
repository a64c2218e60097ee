"""`plan` answers whether it will pay: expected latency, memory, what stays, what is risked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from failures import raises_error

from compressor.commands import plan as planning
from compressor.errors import TargetNotReached
from compressor.recipe import read_recipe
from compressor.report.pareto_result import Pareto
from compressor.report.plan_result import Plan

DIGITS = "cifar:resnet8@digits"


def plan(*overrides: str, data: str | None = None) -> Plan:
    recipe = read_recipe("quickstart", overrides)
    return planning.plan_run(DIGITS, recipe, data=data, trust_pickle=False, emit=lambda _event, _fields: None)


def test_without_a_device_sizes_memory_and_risk_are_told() -> None:
    found = plan("bench.target=none")
    assert found["latency"] is None
    memory, least, risk = found["memory"], found["least"], found["risk"]
    assert found["slim"]["params"] * 4 < memory["slim"] < memory["dense"]
    assert 0 < least["macs"] < 0.5 > least["params"]
    assert 0.5 < found["kept"] < 1
    assert risk is not None
    assert risk["split"] == "training"
    assert risk["slim"] <= risk["dense"]
    assert risk["dense"] > 90


@pytest.mark.parametrize(("name", "share"), [("memory", 0.6), ("size", 0.5)])
def test_targets_of_bytes(name: str, share: float) -> None:
    found = plan("bench.target=none", "prune.round_to=1", f"prune.target={{{name}: {share:.0%}}}")
    if name == "memory":
        assert found["memory"]["slim"] <= share * found["memory"]["dense"]
    else:
        assert found["slim"]["params"] < share * found["dense"]["params"], "operators take their bytes, too"


def test_what_cannot_be_met_is_an_error_that_names_the_least() -> None:
    with raises_error(
        TargetNotReached,
        "target-not-reachable/beyond-maximum",
        "prune.target",
        "memory",
        re.compile(r"\d+\.\d%"),
        "0.1%",
    ):
        plan("bench.target=none", "prune.round_to=1", "prune.target={memory: 0.1%}")


def pareto(*targets: str) -> Pareto:
    recipes = {
        each: read_recipe("quickstart", ["bench.target=none", "prune.round_to=1", f"prune.target={{{each}}}"])
        for each in targets
    }
    return planning.plan_several(DIGITS, recipes, data=None, trust_pickle=False, emit=lambda _event, _fields: None)


def test_several_targets_are_several_plans_and_one_out_of_reach_says_so() -> None:
    found = pareto("macs: 60%", "macs: 30%", "macs: 0.1%")
    more, less, none = found["points"]
    alone = plan("bench.target=none", "prune.round_to=1", "prune.target={macs: 30%}")
    assert (less["slim"], less["kept"], less["memory"]) == (alone["slim"], alone["kept"], alone["memory"]["slim"])
    assert less["risk"] == alone["risk"]
    assert found["dense"] == alone["dense"]
    assert found["device"] is None
    assert more["slim"] is not None
    assert less["slim"] is not None
    assert 0.3 * found["dense"]["macs"] < more["slim"]["macs"] <= 0.6 * found["dense"]["macs"]
    assert none["slim"] is None
    assert none["reason"] is not None
    assert "0.1%" in none["reason"]


def test_where_no_target_can_be_met_the_first_is_the_error() -> None:
    with raises_error(TargetNotReached, "target-not-reachable/beyond-maximum", "macs", "0.2%"):
        pareto("macs: 0.2%", "macs: 0.1%")


@pytest.mark.long
def test_a_latency_is_predicted_and_other_targets_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    predicted = plan("prune.target={latency: 60%}")["latency"]
    assert predicted is not None
    assert not predicted["measured"]
    assert predicted["slim_ms"] <= 0.6 * predicted["dense_ms"]
    measured = plan("prune.target={macs: 50%}")["latency"]
    assert measured is not None
    assert measured["measured"]
    bounds = plan("prune.target={latency: 60%}")["bounds"]
    assert bounds is not None
    assert 0 < bounds["least"] < 0.6
    assert bounds["fixed"] + bounds["between"] < 1
    for latency in (predicted, measured):
        low, high = latency["slim_interval_ms"]
        assert low <= latency["slim_ms"] <= high
