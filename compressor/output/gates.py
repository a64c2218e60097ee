"""Targets and gates: what was asked, what was found, and the error a failed one ends the run with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from compressor.core import Comparison, Cost, Metric
from compressor.errors import (
    AccuracyGateFailed,
    CompressorError,
    LatencyGateFailed,
    MeasurementUnstable,
    TargetNotReached,
)
from compressor.recipe import GatesConfig, Recipe
from compressor.report.schema import Gate, Report

NOT_MEASURED = "accuracy was not measured"


def judge_gates(
    recipe: Recipe,
    original: Cost,
    slim: Cost,
    quality: Mapping[str, float],
    comparisons: Sequence[Comparison],
    metric: Metric | None,
    taken: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> list[Gate]:
    """One entry for each target and gate of the recipe. What was measured counts by the worse end of its interval.

    `quality`: stage -> `metric` on the test set, in order; None where there was no data to measure it on.
    `taken`: bytes of `size` (the files) and `memory`, dense and slim.
    """
    target, gates = recipe.selection(1), recipe.gates
    verdicts: list[Gate] = []
    for name in ("macs", "params", "weights", "nodes"):
        share = getattr(target, name)
        if share is not None:
            found = getattr(slim, name) / getattr(original, name)
            verdicts.append(
                _gate(f"target {name}", f"at most {share:.1%} of the original", f"{found:.1%}", found <= share)
            )
    for name, share in (("size", target.size), ("memory", target.memory)):
        if share is not None:
            dense_bytes, slim_bytes = taken[name]
            left = slim_bytes / dense_bytes
            asked = f"at most {share:.1%} of the original"
            verdicts.append(_gate(f"target {name}", asked, f"{left:.1%}", left <= share))
    verdicts += _latency_targets(recipe, comparisons)
    if gates.accuracy_drop is not None:
        unit = "points" if metric is None or metric.unit == "%" else f"% of {metric.name}"
        if metric is not None and "dense" in quality:
            lost = worsening(metric, quality["dense"], list(quality.values())[-1])
            found_words, ok = f"{lost:.2f} {unit}", lost <= gates.accuracy_drop
        else:
            found_words, ok = NOT_MEASURED, False
        verdicts.append(_gate("accuracy_drop", f"at most {gates.accuracy_drop:.2f} {unit}", found_words, ok))
    return [*verdicts, *_latency_gates(recipe.gates, comparisons)]


def _latency_gates(gates: GatesConfig, comparisons: Sequence[Comparison]) -> Iterator[Gate]:
    """Judged at the recipe's first batch size; a measurement that is not stable meets no gate."""
    for first in comparisons[:1]:
        if gates.speedup is not None:
            low = first.ratio_ci95[0] if first.ratio_ci95 and first.stable else -math.inf
            yield _gate("speedup", f"at least {gates.speedup:.2f}x", first.verdict, low >= gates.speedup)
        if gates.latency_ms is not None and first.b is not None:
            low, high = first.b.ci95
            found = f"{first.b.p50:.4g} ms [{low:.4g}, {high:.4g}]" if first.stable else first.verdict
            ok = first.stable and high <= gates.latency_ms
            yield _gate("latency_ms", f"at most {gates.latency_ms:.4g} ms", found, ok)


def _latency_targets(recipe: Recipe, comparisons: Sequence[Comparison]) -> Iterator[Gate]:
    """By the median of all runs, at the first batch size."""
    target, unstable = recipe.selection(1), ""
    for first in comparisons[:1]:
        assert first.b is not None, "dense and slim are compared"
        unstable = "" if first.stable else f" ({first.verdict})"
        if target.latency is not None:
            share = first.b.p50 / first.a.p50
            asked = f"at most {target.latency:.1%} of the original"
            yield _gate("target latency", asked, f"{share:.1%}{unstable}", share <= target.latency)
        if target.latency_ms is not None:
            asked = f"at most {target.latency_ms:.4g} ms"
            yield _gate("target latency_ms", asked, f"{first.b.p50:.4g} ms{unstable}", first.b.p50 <= target.latency_ms)


def worsening(metric: Metric, dense: float, slim: float) -> float:
    """How much worse slim is: percentage points of a metric in %, else in % of the dense model's value."""
    lost = dense - slim if metric.higher_is_better else slim - dense
    if metric.unit == "%":
        return lost
    if dense == 0:
        return math.copysign(math.inf, lost) if lost else 0.0
    return 100 * lost / abs(dense)


def check_gates(report: Report) -> Report:
    """The report; or the error of the first target or gate that failed, raised with the report in it."""
    if error := first_failure(report["gates"]):
        raise error.with_report(report)
    return report


def first_failure(gates: Sequence[Gate]) -> CompressorError | None:
    """The error of the first target or gate that is not met."""
    return next((_error(gate) for gate in gates if not gate["ok"]), None)


def _error(gate: Gate) -> CompressorError:
    place, problem = gate["name"], f"{gate['found']}, but the limit is {gate['asked']}"
    if gate["name"] == "accuracy_drop":
        if gate["found"] == NOT_MEASURED:
            return AccuracyGateFailed("accuracy-gate-failed/not-measured", place, problem, "give --data")
        hint = "retrain for more epochs, prune less, or relax the gate"
        return AccuracyGateFailed("accuracy-gate-failed/drop-too-large", place, problem, hint)
    if gate["name"].startswith("target latency") and "unstable" in gate["found"]:
        return MeasurementUnstable(
            "target-not-judged/unstable", place, problem, "measure on an idle machine, or for longer"
        )
    if gate["name"] not in ("speedup", "latency_ms"):
        return TargetNotReached("target-not-reached/above-target", place, problem, "raise the target")
    if gate["found"].startswith("unstable"):
        return MeasurementUnstable(
            "latency-gate-not-judged/unstable", place, problem, "measure on an idle machine, or for longer"
        )
    return LatencyGateFailed("latency-gate-failed/too-slow", place, problem, "prune more, or relax the gate")


def _gate(name: str, asked: str, found: str, ok: bool) -> Gate:
    return {"name": name, "asked": asked, "found": found, "ok": ok}
