"""The sentence at the top: what it says of speed, quality and proofs, and what to do."""

from __future__ import annotations

import pytest

from compressor.core import VerdictKind
from compressor.report.blocks import Card, Headline
from compressor.report.findings import Report, findings
from compressor.report.findings.headline import FAR, NOT_FASTER, UNSTABLE, ZEROS, ResultHeadline, describe_quality
from compressor.report.findings.latency import MeasuredLatency

ONE_OUTPUT = {"top1_output": None, "error_output": None}


def headline(report: Report) -> Headline:
    (finding,) = (finding for finding in findings() if isinstance(finding, ResultHeadline))
    (block,) = finding.terminal(report)
    assert isinstance(block, Headline)
    return block


def timed(
    report: Report, ratio: float | None, bounds: list[float] | None, kind: VerdictKind | None, **ratios: float
) -> Report:
    return {
        **report,
        "ratios": {**report["ratios"], "latency": ratio, "latency_ci95": bounds, **ratios},
        "bench": {**report["bench"], "verdict": f"{kind} in words", "verdict_kind": kind},
    }


@pytest.mark.parametrize(
    ("ratio", "bounds", "kind", "ok", "hint", "word"),
    [
        (3.3, [2.8, 3.9], "faster", True, "", "3.30x faster [2.80, 3.90]"),
        (0.88, [0.76, 0.92], "slower", False, NOT_FASTER, "SLOWER: 0.88x [0.76, 0.92]"),
        (1.02, [0.99, 1.04], "unchanged", False, NOT_FASTER, "NOT FASTER: 1.02x"),
        (1.10, [1.01, 1.20], "unchanged", False, NOT_FASTER, "NOT FASTER"),  # the control differs as much
        (None, None, "unstable", None, UNSTABLE, "speed uncertain (unstable in words)"),
        (None, None, None, None, "", "fewer MACs (speed not measured)"),
    ],
)
def test_speed(trained, ratio, bounds, kind, ok, hint, word) -> None:
    block = headline(timed(trained.report, ratio, bounds, kind))
    assert (block.ok, block.hint) == (ok, hint)
    assert word in block.text


@pytest.mark.parametrize(
    ("bounds", "kind", "ok"),
    [([1.2, 1.3], "faster", True), ([0.8, 0.9], "slower", False), ([1.01, 1.2], "unchanged", None)],
)
def test_the_card_of_the_page_says_what_the_headline_says(trained, bounds, kind, ok) -> None:
    report = timed(trained.report, 1.1, bounds, kind)
    (card,) = (block for block in MeasuredLatency().page(report) if isinstance(block, Card))
    assert card.ok is ok
    assert (headline(report).ok is True) == (ok is True)


def test_zeros_alone_get_a_hint_of_their_own(trained) -> None:
    report = {**timed(trained.report, 1.0, [0.99, 1.01], "unchanged", macs=1.0), "masks": {"layers": []}}
    assert headline(report).hint == ZEROS


def test_a_fast_model_that_misses_a_gate_is_no_success(trained) -> None:
    missed = {"name": "speedup", "asked": "2x", "found": "1.6x", "ok": False, "status": "missed"}
    assert headline(trained.report).ok is True
    assert headline({**trained.report, "gates": [missed]}).ok is False
    assert headline({**trained.report, "onnx": {**trained.report["onnx"], "ok": False}}).ok is False


def test_quality_without_labels_is_the_agreement(trained) -> None:
    report = {**trained.report, "dense": {**trained.report["dense"], "metric": None}}
    agreement = {"top1": 99.5, "kl": 0.1, "output_error": 3.0, "samples": 100, "steps": {}, **ONE_OUTPUT}
    assert describe_quality({**report, "agreement": agreement}) == "99.50 % agreement with dense"
    assert "differ by 3.00 %" in describe_quality({**report, "agreement": {**agreement, "top1": None}})
    assert describe_quality({**report, "agreement": None}) == "accuracy not measured"


@pytest.mark.parametrize(
    ("top1", "error", "hint"), [(90.0, 80.0, ""), (89.9, 0.1, FAR), (None, 10.0, ""), (None, 10.1, FAR)]
)
def test_answers_that_are_far_from_the_dense_ones_say_what_to_do(
    trained, top1: float | None, error: float, hint: str
) -> None:
    agreement = {"top1": top1, "kl": 0.1, "output_error": error, "samples": 100, "steps": {}, **ONE_OUTPUT}
    labelled = {**trained.report, "agreement": agreement}
    unlabelled = {**labelled, **{side: {**labelled[side], "metric": None} for side in ("dense", "slim")}}
    assert headline(labelled).hint == ""
    assert headline(unlabelled).hint == hint
    assert headline(unlabelled).ok is (None if hint else True)
