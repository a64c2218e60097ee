"""The result of a run in one sentence: is it faster, what does it answer, is it proven; and what to do if it is not."""

from __future__ import annotations

from collections.abc import Iterable

from compressor.core import VerdictKind
from compressor.report.blocks import Block, Headline
from compressor.report.findings.base import Finding, Report
from compressor.report.findings.task_metric import format_change, format_metric
from compressor.report.format import format_percent, format_ratio

UNSTABLE = "measure again when nothing else runs: compress bench DIR/dense.onnx DIR/model.onnx"
ZEROS = "zeros alone make no dense runtime faster: remove channels (recipes auto, l1), or use a sparse runtime"
NOT_FASTER = (
    "do not deploy it for its speed: remove more (--set prune.target.macs=30%), or ask for a time, "
    "which is measured while channels are chosen (--set 'prune.target={latency: 60%}')"
)
MOST_ERROR, LEAST_AGREEMENT = 10.0, 90.0  # %; answers without labels are far from the dense ones beyond it
FAR = (
    "its answers are far from the dense model's: remove less (such as --set prune.target.macs=80%), give more samples, "
    "or retrain it (--set retrain.epochs=10)"
)


class ResultHeadline(Finding):
    """Speed with its interval, the metric or the agreement, and the proofs."""

    order = 5

    def terminal(self, report: Report) -> Iterable[Block]:
        ok, speed, hint = describe_speed(report)
        proven = report["certificate"]["ok"] and report["onnx"]["ok"]
        gates = all(gate["ok"] for gate in report["gates"])
        parts = [speed, describe_quality(report), "proven" if proven else "NOT PROVEN"]
        if not gates:
            parts.append("NOT ALL TARGETS MET")
        if is_far(report):
            ok, hint = None if ok else ok, hint or FAR
        yield Headline(", ".join(parts), ok if proven and gates else False, hint)


def describe_speed(report: Report) -> tuple[bool | None, str, str]:
    """Say whether the slim model is faster.

    Args:
        report: Report.json.

    Returns:
        Whether it is faster, None where that was not measured or is uncertain; the words; and what to do if it is not.
    """
    ratio, bounds = report["ratios"]["latency"], report["ratios"]["latency_ci95"]
    macs = f"{format_ratio(report['ratios']['macs'])} fewer MACs"
    kind: VerdictKind | None = report["bench"]["verdict_kind"]
    if kind == "unstable":  # no ratio is stated then
        return None, f"{macs}, speed uncertain ({report['bench']['verdict']})", UNSTABLE
    if ratio is None:
        return None, f"{macs} (speed not measured)", ""
    if kind == "faster":
        return True, f"{format_ratio(ratio)} faster [{bounds[0]:.2f}, {bounds[1]:.2f}]", ""
    only_zeros = report["ratios"]["macs"] == 1 and (report.get("masks") or report.get("sparsity"))
    words = "SLOWER" if kind == "slower" else "NOT FASTER"
    return False, f"{words}: {format_ratio(ratio, bounds)}", ZEROS if only_zeros else NOT_FASTER


def is_far(report: Report) -> bool:
    """Whether the answers differ much from the dense model's, where no labels say how good they are."""
    agreement = report["agreement"]
    if agreement is None or _has_metric(report):
        return False
    top1, error = agreement["top1"], agreement["output_error"]
    is_another = agreement["error_output"] != agreement["top1_output"]  # than the one with classes
    differs = (top1 is None or is_another) and error > MOST_ERROR
    return bool(differs or (top1 is not None and top1 < LEAST_AGREEMENT))


def describe_quality(report: Report) -> str:
    """'accuracy 98.99 % (-0.34 points)', or the agreement with the dense model where there are no labels."""
    metric, dense, slim = report["metric"], report["dense"]["metric"], report["slim"]["metric"]
    if _has_metric(report):
        return f"{metric['name']} {format_metric(slim, metric)} ({format_change(dense, slim, metric)})"
    agreement = report["agreement"]
    if agreement is None:
        return f"{metric['name']} not measured"
    error, worst = format_percent(agreement["output_error"]), agreement["error_output"]
    differ = f"outputs differ by {error}" if worst is None else f"outputs differ by up to {error} ({worst})"
    if agreement["top1"] is None:
        return f"{differ} from the dense model's"
    agrees = f"{format_percent(agreement['top1'])} agreement with dense"
    return agrees if worst is None else f"{agrees} ({agreement['top1_output']}), {differ}"


def _has_metric(report: Report) -> bool:
    """Whether labels say how good both models are."""
    return report["dense"]["metric"] is not None and report["slim"]["metric"] is not None
