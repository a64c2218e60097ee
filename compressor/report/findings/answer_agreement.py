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
    """The last stage's values, the number of test samples, and the values of every stage.

    Of several outputs, `top1_output` is the first with class scores, which `top1` and `kl` are of, and `error_output`
    the one with the largest error. Both are None where there is one output.
    """

    top1_output: str | None
    error_output: str | None
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
        top1, error = output_names(last)
        named = AgreementRecord(
            **stage_agreement(last), top1_output=top1, error_output=error, samples=last.samples, steps=steps
        )
        return {"agreement": named}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: AgreementRecord | None = report["agreement"]
        if record is not None:
            stages = [f"{stage.removeprefix('after ')} {_main(values)}" for stage, values in record["steps"].items()]
            samples = f"on {record['samples']:,} samples that no decision used"
            facts = f"{' -> '.join(stages)}{_name(record)}, {samples}{_divergence(record)}{_largest_error(record)}"
            yield Fact("Agreement with dense", facts)

    def page(self, report: Report) -> Iterable[Block]:
        record: AgreementRecord | None = report["agreement"]
        if record is not None:
            label = "output error" if record["top1"] is None else "same top-1 prediction"
            note = f"{record['samples']:,} samples, labels not read{_largest_error(record)}"
            yield Card("What did I lose?", _main(record).removesuffix(" error"), f"{label}{_name(record)}", note)
        yield from self.terminal(report)


def stage_agreement(agreement: Agreement) -> StageAgreement:
    """The JSON of one measurement: class scores by the first output that has them, errors by the worst output."""
    scores = agreement.class_scores
    error = max((output.relative_error for output in agreement.outputs), default=0.0)
    top1 = None if scores is None or scores.top1 is None else 100 * scores.top1
    return {"top1": top1, "kl": finite(scores.kl) if scores else None, "output_error": finite(100 * error)}


def output_names(agreement: Agreement) -> tuple[str | None, str | None]:
    """Name the outputs that `top1` and `output_error` are of, where there are several."""
    if len(agreement.outputs) < 2:
        return None, None
    scores = agreement.class_scores
    worst = max(agreement.outputs, key=lambda output: output.relative_error)
    return None if scores is None else scores.name, worst.name


def _main(values: StageAgreement) -> str:
    if values["top1"] is not None:
        return format_percent(values["top1"])
    return f"{format_percent(values['output_error'])} error"


def _divergence(values: StageAgreement) -> str:
    return "" if values["kl"] is None else f"; KL divergence {format_significant(values['kl'])} nats"


def _name(record: AgreementRecord) -> str:
    """The output that the main value is of, where there are several."""
    name = record["error_output"] if record["top1"] is None else record["top1_output"]
    return "" if name is None else f" ({name})"


def _largest_error(record: AgreementRecord) -> str:
    """The largest error of any output, which the top-1 agreement of one output does not show."""
    worst = record["error_output"]
    if record["top1"] is None or worst is None:
        return ""
    return f"; largest error {format_percent(record['output_error'])} ({worst})"
