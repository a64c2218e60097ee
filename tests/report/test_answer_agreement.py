"""The agreement of networks with one output and with several, in report.json, on the terminal and in the headline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compressor.agreement import Agreement, OutputAgreement
from compressor.report.blocks import Card, Fact
from compressor.report.findings import Report
from compressor.report.findings.answer_agreement import AnswerAgreement
from compressor.report.findings.headline import describe_quality, is_far

NSP, MLM, BOXES = (
    OutputAgreement("nsp", 0.02, top1=0.9875, kl=0.1),
    OutputAgreement("mlm", 0.195),
    OutputAgreement("boxes", 0.05),
)


def report_of(trained, *outputs: OutputAgreement) -> Report:
    agreement = Agreement(80, outputs)
    state = replace(trained.result.state, agreement={"after surgery": agreement, "after refinement": agreement})
    record = AnswerAgreement().record(replace(trained.result, state=state))
    without = {side: {**trained.report[side], "metric": None} for side in ("dense", "slim")}
    return {**trained.report, **without, **record}


@pytest.mark.parametrize(
    ("outputs", "top1", "error", "far"),
    [
        ((NSP,), None, None, False),
        ((MLM, NSP), "nsp", "mlm", True),
        ((BOXES, NSP), "nsp", "boxes", False),
        ((BOXES, MLM), None, "mlm", True),
        ((BOXES, replace(NSP, relative_error=0.3)), "nsp", "nsp", False),  # its classes are what counts
    ],
)
def test_of_several_outputs_those_that_the_numbers_are_of_are_named(
    trained, outputs: tuple[OutputAgreement, ...], top1: str | None, error: str | None, far: bool
) -> None:
    report = report_of(trained, *outputs)
    record = report["agreement"]
    assert (record["top1_output"], record["error_output"]) == (top1, error)
    assert is_far(report) == far
    (fact,) = AnswerAgreement().terminal(report)
    card, _ = AnswerAgreement().page(report)
    assert isinstance(fact, Fact)
    assert isinstance(card, Card)
    for text in (fact.text, card.label + card.note, describe_quality(report)):
        assert {name for name in ("nsp", "mlm", "boxes") if f"({name})" in text} == {top1, error} - {None}
