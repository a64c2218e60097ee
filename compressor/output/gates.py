"""Targets and gates of the recipe: whether each is met, and the error that ends the run where one is not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from compressor.budget.target import COSTS
from compressor.core import Comparison, Cost, Metric
from compressor.errors import (
    AccuracyGateFailed,
    CompressorError,
    LatencyGateFailed,
    MeasurementUnstable,
    TargetNotReached,
)
from compressor.recipe import Recipe
from compressor.report.findings import Report
from compressor.report.findings.answer_agreement import StageAgreement
from compressor.report.findings.gate_results import Gate, GateStatus

ACCURACY_GATE, AGREEMENT_GATES, LATENCY_GATES = (
    "accuracy_drop",
    ("agreement", "output_error"),
    ("speedup", "latency_ms"),
)
"""Names of the gates; every other entry is a target."""


def judge_gates(
    recipe: Recipe,
    original: Cost,
    slim: Cost,
    quality: Mapping[str, float],
    comparisons: Sequence[Comparison],
    metric: Metric | None,
    sizes: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    agreement: StageAgreement | None = None,
) -> list[Gate]:
    """Judge every target and gate of the recipe; a gate on a measured value counts by the worse end of its interval.

    Args:
        recipe: Its targets and gates.
        original: The cost that targets are shares of.
        slim: The slim model's cost, without masked weights.
        quality: Stage -> `metric` on the test set, in the order of the run.
        comparisons: Latency of dense and slim; the first counts.
        metric: The data's; None where there was no data.
        sizes: Bytes of the original and of the slim model, for the targets `size` (the ONNX files) and `memory`.
        agreement: Of the slim model with the dense one; None where it was not measured.

    Returns:
        One entry for each target, then one for each gate.
    """
    target, first = recipe.pruning_target(), comparisons[0] if comparisons else None
    costs: dict[str, tuple[float, float]] = {name: (getattr(original, name), getattr(slim, name)) for name in COSTS}
    gates: list[Gate] = []
    for name, (dense_amount, slim_amount) in {**costs, **sizes}.items():
        limit = getattr(target, name)
        if limit is not None:
            share = slim_amount / dense_amount
            gates.append(_gate(f"target {name}", _at_most(limit), f"{share:.1%}", _met(share <= limit)))
    if first is not None:
        gates += _latency_targets(recipe, first)
    if (limit := recipe.gates.accuracy_drop) is not None:
        gates.append(_accuracy_gate(limit, quality, metric))
    gates += _agreement_gates(recipe, agreement)
    if first is not None:
        gates += _latency_gates(recipe, first)
    return gates


def _latency_targets(recipe: Recipe, comparison: Comparison) -> Iterator[Gate]:
    """Judged by the ratio of the comparison, whose pairs were measured in turn, and by the median of all runs."""
    target, slim = recipe.pruning_target(), comparison.b
    assert slim is not None, "dense and slim are compared"
    note = "" if comparison.stable else f" ({comparison.verdict.words})"
    if target.latency is not None:
        share = 1 / comparison.ratio if comparison.ratio else slim.p50 / comparison.a.p50
        status = _met(share <= target.latency, stable=comparison.stable)
        yield _gate("target latency", _at_most(target.latency), f"{share:.1%}{note}", status)
    if target.latency_ms is not None:
        status = _met(slim.p50 <= target.latency_ms, stable=comparison.stable)
        yield _gate("target latency_ms", f"at most {target.latency_ms:.4g} ms", f"{slim.p50:.4g} ms{note}", status)


def _accuracy_gate(limit: float, quality: Mapping[str, float], metric: Metric | None) -> Gate:
    """Judged by the last stage."""
    unit = "points" if metric is None or metric.unit == "%" else f"% of {metric.name}"
    required = f"at most {limit:.2f} {unit}"
    if metric is None or "dense" not in quality:
        return _gate(ACCURACY_GATE, required, "accuracy was not measured", "unmeasured")
    loss = worsening(metric, quality["dense"], list(quality.values())[-1])
    return _gate(ACCURACY_GATE, required, f"{loss:.2f} {unit}", _met(loss <= limit))


def _agreement_gates(recipe: Recipe, agreement: StageAgreement | None) -> Iterator[Gate]:
    """Judged by the last stage, on samples that nothing was chosen by."""
    if (least := recipe.gates.agreement) is not None:
        required, top1 = f"at least {least:.2f} %", agreement["top1"] if agreement else None
        if top1 is None:
            yield _gate("agreement", required, "no class scores were compared", "unmeasured")
        else:
            yield _gate("agreement", required, f"{top1:.2f} %", _met(top1 >= least))
    if (limit := recipe.gates.output_error) is not None:
        required, error = f"at most {limit:.2f} %", agreement["output_error"] if agreement else None
        if error is None:
            yield _gate("output_error", required, "no outputs were compared", "unmeasured")
        else:
            yield _gate("output_error", required, f"{error:.2f} %", _met(error <= limit))


def _latency_gates(recipe: Recipe, comparison: Comparison) -> Iterator[Gate]:
    """Judged by the worse end of the interval; an unstable measurement meets no gate."""
    gates, stable = recipe.gates, comparison.stable
    if gates.speedup is not None:
        low = comparison.ratio_ci95[0] if comparison.ratio_ci95 and stable else -math.inf
        status = _met(low >= gates.speedup, stable=stable)
        yield _gate("speedup", f"at least {gates.speedup:.2f}x", comparison.verdict.words, status)
    if gates.latency_ms is not None and comparison.b is not None:
        low, high = comparison.b.ci95
        interval = f"{comparison.b.p50:.4g} ms [{low:.4g}, {high:.4g}]" if stable else comparison.verdict.words
        status = _met(stable and high <= gates.latency_ms, stable=stable)
        yield _gate("latency_ms", f"at most {gates.latency_ms:.4g} ms", interval, status)


def _gate(name: str, required: str, measured: str, status: GateStatus) -> Gate:
    return {"name": name, "asked": required, "found": measured, "ok": status == "met", "status": status}


def _met(condition: bool, *, stable: bool = True) -> GateStatus:
    if condition:
        return "met"
    return "missed" if stable else "unstable"


def _at_most(share: float) -> str:
    return f"at most {share:.1%} of the original"


def worsening(metric: Metric, dense: float, slim: float) -> float:
    """Return how much worse the slim model is; negative where it is better.

    Args:
        metric: What both values are values of.
        dense: The dense model's value.
        slim: The slim model's value.

    Returns:
        Percentage points for a metric in %, otherwise % of the dense model's value.
    """
    loss = dense - slim if metric.higher_is_better else slim - dense
    if metric.unit == "%":
        return loss
    if dense == 0:
        return math.copysign(math.inf, loss) if loss else 0.0
    return 100 * loss / abs(dense)


def check_gates(report: Report) -> Report:
    """Return `report` where every target and gate is met.

    Raises:
        CompressorError: The first that is not met; the error holds the report.
    """
    if error := first_failure(report["gates"]):
        raise error.with_report(report)
    return report


def first_failure(gates: Sequence[Gate]) -> CompressorError | None:
    """The error for the first target or gate that is not met."""
    return next((_error(gate) for gate in gates if not gate["ok"]), None)


def _error(gate: Gate) -> CompressorError:
    place, problem = gate["name"], f"{gate['found']}, but the limit is {gate['asked']}"
    is_latency_gate = gate["name"] in LATENCY_GATES
    if gate["name"] == ACCURACY_GATE:
        if gate["status"] == "unmeasured":
            return AccuracyGateFailed("accuracy-gate-failed/not-measured", place, problem, "give --data")
        hint = "retrain for more epochs, prune less, or relax the gate"
        return AccuracyGateFailed("accuracy-gate-failed/drop-too-large", place, problem, hint)
    if gate["name"] in AGREEMENT_GATES:
        if gate["status"] == "unmeasured":
            return AccuracyGateFailed("agreement-gate-failed/not-measured", place, problem, "give samples with --data")
        hint = "prune less, give more samples, retrain for more epochs, or relax the gate"
        return AccuracyGateFailed("agreement-gate-failed/answers-differ", place, problem, hint)
    if gate["status"] == "unstable":
        code = "latency-gate-not-judged/unstable" if is_latency_gate else "target-not-judged/unstable"
        return MeasurementUnstable(code, place, problem, "measure on an idle machine, or for longer")
    if is_latency_gate:
        return LatencyGateFailed("latency-gate-failed/too-slow", place, problem, "prune more, or relax the gate")
    return TargetNotReached("target-not-reached/above-target", place, problem, "raise the target")
