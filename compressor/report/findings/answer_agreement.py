"""The agreement of the slim model with the dense one, which needs no labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

from compressor.report.blocks import Block, Card, Fact
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.format import format_percent, format_significant

if TYPE_CHECKING:
    from compressor.agreement import Agreement
    from compressor.report.run_result import RunResult


class StageAgreement(TypedDict):
    """`top1`: % of samples with the same best class. `kl`: nats. `output_error`: % of the largest relative error."""

    top1: float | None
    kl: float | None
    output_error: float | None


class AgreementRecord(StageAgreement):
    """The last stage's values, the number of held-out samples, and the values of every stage."""

    samples: int
    steps: dict[str, StageAgreement]


class AnswerAgreement(Finding):
    """Top-1 agreement and KL divergence for class scores, the relative error for every output."""

    order = 85

    def record(self, run: RunResult) -> Mapping[str, object]:
        stages = run.state.agreement
        if not stages:
            return {"agreement": None}
        last = list(stages.values())[-1]
        steps = {stage: stage_agreement(agreement) for stage, agreement in stages.items()}
        return {"agreement": AgreementRecord(**stage_agreement(last), samples=last.samples, steps=steps)}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: AgreementRecord | None = report["agreement"]
        if record is not None:
            stages = [f"{stage.removeprefix('after ')} {_main(values)}" for stage, values in record["steps"].items()]
            samples = f"on {record['samples']:,} samples that no decision used"
            yield Fact("Agreement with dense", f"{' -> '.join(stages)}, {samples}{_divergence(record)}")

    def page(self, report: Report) -> Iterable[Block]:
        record: AgreementRecord | None = report["agreement"]
        if record is not None:
            label = "output error" if record["top1"] is None else "same top-1 prediction"
            note = f"{record['samples']:,} samples, labels not read"
            yield Card("What did I lose?", _main(record).removesuffix(" error"), label, note)
        yield from self.terminal(report)


def stage_agreement(agreement: Agreement) -> StageAgreement:
    """The JSON of one measurement: class scores by the first output that has them, errors by the worst output."""
    scores = next((output for output in agreement.outputs if output.top1 is not None), None)
    error = max((output.relative_error for output in agreement.outputs), default=0.0)
    top1 = None if scores is None or scores.top1 is None else 100 * scores.top1
    return {"top1": top1, "kl": finite(scores.kl) if scores else None, "output_error": finite(100 * error)}


def _main(values: StageAgreement) -> str:
    if values["top1"] is not None:
        return format_percent(values["top1"])
    return f"{format_percent(values['output_error'])} error"


def _divergence(values: StageAgreement) -> str:
    return "" if values["kl"] is None else f"; KL divergence {format_significant(values['kl'])} nats"
