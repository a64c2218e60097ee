"""`plan` answers whether it will pay: expected latency, memory, what stays, what is risked."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor import questions
from compressor.errors import TargetNotReached
from compressor.recipe import read_recipe
from compressor.report.schema_verbs import Plan

DIGITS = "cifar:resnet8@digits"


def plan(*overrides: str, data: str | None = None) -> Plan:
    recipe = read_recipe("quickstart", overrides)
    return questions.plan(DIGITS, recipe, data=data, trust_pickle=False, emit=lambda _event, _fields: None)


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
    with pytest.raises(TargetNotReached, match=r"memory \d+\.\d% at the least, asked for 0\.1%"):
        plan("bench.target=none", "prune.round_to=1", "prune.target={memory: 0.1%}")


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
    for latency in (predicted, measured):
        low, high = latency["slim_interval_ms"]
        assert low <= latency["slim_ms"] <= high


ZOO = (
    "cifar:resnet20",
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:squeezenet1_1",
    "timm:vit_tiny_patch16_224",
)


@pytest.mark.long
@pytest.mark.parametrize("target", ["{macs: 75%}", "{ratio: 20%}"])
@pytest.mark.parametrize("source", ZOO)
def test_no_plan_is_slower_than_its_parent(source: str, target: str) -> None:
    """With widths as the device rewards them. The worst would be widths it punishes: up to 30 % a layer."""
    recipe = read_recipe("l1", [f"prune.target={target}"])
    latency = questions.plan(source, recipe, data=None, trust_pickle=False, emit=lambda _event, _fields: None)[
        "latency"
    ]
    assert latency is not None
    assert latency["ratio_interval"][1] >= 1
