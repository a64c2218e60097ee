"""Measured latency of both models at the recipe's first batch size, and the conditions it was measured under."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from compressor.core import Comparison, Latency, VerdictKind
from compressor.report.blocks import Block, Card, Fact, Row, Section, Table
from compressor.report.findings.base import Finding, Report, finite, finite_interval
from compressor.report.format import (
    NOTHING,
    format_bytes,
    format_joules,
    format_ms,
    format_number,
    format_quotient,
    format_ratio,
    printable,
)
from compressor.report.run_result import RunResult
from compressor.report.svg import Figure, Frame, axes, figure, legend, linear_scale, path, tag, ticks

FARTHEST = 3  # times the slower median: where the figure ends at most


class LatencyRecord(TypedDict):
    """Milliseconds of one run; `ci95` is the interval of `p50`. Percentiles are None where the samples are too few."""

    p50: float
    p90: float | None
    p99: float | None
    n: int
    ci95: list[float] | None
    cold_start_ms: float | None
    energy_j: NotRequired[float | None]
    peak_bytes: NotRequired[int | None]


class SetupRecord(TypedDict):
    """Where and how latency was measured; all but `target` are None where nothing was."""

    target: str
    runtime: str | None
    provider: str | None
    threads: int | None
    batch: int | None


class ConditionsRecord(SetupRecord):
    """The conditions of a measurement, and its result in words."""

    verdict: str
    verdict_kind: VerdictKind | None  # None = not measured
    control: float | None
    control_ci95: list[float] | None
    environment: dict[str, str]


class MeasuredLatency(Finding):
    """Percentiles of both models, their ratio with its interval, and the control measurement."""

    order = 90

    def record(self, run: RunResult) -> Mapping[str, object]:
        comparison = run.comparison
        return {
            "dense": {"latency_ms": latency_record(comparison.a if comparison else None)},
            "slim": {"latency_ms": latency_record(comparison.b if comparison else None)},
            "ratios": latency_ratio(comparison),
            "bench": conditions_record(comparison),
        }

    def terminal(self, report: Report) -> Iterable[Block]:
        dense, slim = (report[model]["latency_ms"] for model in ("dense", "slim"))
        before, after = (format_ms(latency["p50"] if latency else None) for latency in (dense, slim))
        ratios = report["ratios"]
        yield Row("Latency p50", before, after, format_ratio(ratios["latency"], ratios["latency_ci95"]))
        bench: ConditionsRecord = report["bench"]
        yield Fact("Latency", bench["verdict"])
        if bench["runtime"] is not None:
            yield Fact("", describe_measurement(bench))

    def page(self, report: Report) -> Iterable[Block]:
        ratios, bench = report["ratios"], report["bench"]
        if ratios["latency"] is None:
            yield Card("Is it faster?", NOTHING, "speed-up", bench["verdict"])
        else:
            low, high = ratios["latency_ci95"]
            note = f"95 % interval {low:.2f} to {high:.2f}; {describe_measurement(bench)}"
            faster = {"faster": True, "slower": False}.get(bench["verdict_kind"])
            yield Card("Is it faster?", format_ratio(ratios["latency"]), "speed-up", note, faster)
        yield from self.terminal(report)
        dense, slim = (report[model]["latency_ms"] for model in ("dense", "slim"))
        if dense and slim:
            yield from _detail_rows(dense, slim)
        if bench["control"] is not None:
            ratio = format_ratio(bench["control"], bench["control_ci95"])
            yield Fact("Control", f"The dense model against a copy of itself: {ratio}")
        if bench["environment"]:
            shown = [(name.replace("_", " "), value) for name, value in bench["environment"].items()]
            rows = [row for row in shown if not row[0].startswith("sha256")]
            yield Section("Conditions of the latency measurement", [Table((), rows, facts=True)], half=True)

    def figures(self, run: RunResult) -> Iterable[Figure]:
        if run.comparison is not None and (figure := latency_figure(*samples(run.comparison))):
            yield figure._replace(first=True)


def _detail_rows(dense: Mapping[str, Any], slim: Mapping[str, Any]) -> Iterable[Row]:
    """Rows that only the page has room for."""
    for label, key in (("Latency p90", "p90"), ("Latency p99", "p99"), ("Cold start", "cold_start_ms")):
        before, after = dense[key], slim[key]
        if before is not None or after is not None:
            yield Row(label, format_ms(before), format_ms(after), "")
    for label, quantity, form in (
        ("Peak memory", "peak_bytes", format_bytes),
        ("Energy of a run", "energy_j", format_joules),
    ):
        before, after = dense.get(quantity), slim.get(quantity)
        if before and after:
            yield Row(label, form(before), form(after), format_quotient(before, after))
    yield Row("Runs measured", f"{dense['n']:,}", f"{slim['n']:,}", "")


def latency_record(latency: Latency | None) -> LatencyRecord | None:
    """The JSON of one model's latency; the samples stay out of it."""
    if latency is None:
        return None
    return {
        "p50": float(latency.p50),
        "p90": finite(latency.p90),
        "p99": finite(latency.p99),
        "n": latency.n,
        "ci95": finite_interval(latency.ci95),
        "cold_start_ms": finite(latency.cold_start_ms),
        "energy_j": finite(latency.energy_j),
        "peak_bytes": latency.peak_bytes,
    }


class RatioRecord(TypedDict):
    """dense / slim with its interval: None where the measurement is unstable or has no interval."""

    latency: float | None
    latency_ci95: list[float] | None


def latency_ratio(comparison: Comparison | None) -> RatioRecord:
    """The latency in the JSON under `ratios`; None for both values without a stable comparison."""
    bounds = finite_interval(comparison.ratio_ci95) if comparison and comparison.stable else None
    return {"latency": finite(comparison.ratio) if comparison and bounds else None, "latency_ci95": bounds}


def conditions_record(comparison: Comparison | None) -> ConditionsRecord:
    """The JSON under `bench`; `target` is 'none' where nothing was measured."""
    return {
        "target": comparison.target if comparison else "none",
        "runtime": comparison.runtime if comparison else None,
        "provider": comparison.provider if comparison else None,
        "threads": comparison.threads if comparison else None,
        "batch": comparison.batch if comparison else None,
        "verdict": comparison.verdict.words if comparison else "not measured",
        "verdict_kind": comparison.verdict.kind if comparison else None,
        "control": finite(comparison.control) if comparison else None,
        "control_ci95": finite_interval(comparison.control_ci95) if comparison else None,
        "environment": dict(comparison.environment) if comparison else {},
    }


def describe_measurement(setup: SetupRecord) -> str:
    """'1 thread, batch 1, onnxruntime 1.31 CPU, on local'."""
    threads, batch = setup["threads"], setup["batch"]
    provider = (setup["provider"] or "").removesuffix("ExecutionProvider")
    parts = (
        "" if threads is None else format_number(threads, "thread"),
        "" if batch is None else f"batch {batch}",
        f"{setup['runtime'] or ''} {provider}".strip(),
        f"on {setup['target']}",
    )
    return printable(", ".join(filter(None, parts)))


def samples(comparison: Comparison) -> tuple[Sequence[float], Sequence[float]]:
    """Every latency sample of the dense and of the slim model, in milliseconds."""
    return comparison.a.samples, comparison.b.samples if comparison.b else ()


def latency_figure(dense: Sequence[float], slim: Sequence[float]) -> Figure | None:
    """Draw the cumulative share of runs over time: further left is faster, steeper is steadier.

    Args:
        dense: Milliseconds of every run of the dense model.
        slim: The same for the slim model.

    Returns:
        The figure, with the medians marked; None without samples.
    """
    frame = Frame()
    runs = {name: sorted(values) for name, values in (("dense", dense), ("slim", slim)) if values}
    if not runs:
        return None
    low, high = min(values[0] for values in runs.values()), max(_quantile(values, 0.99) for values in runs.values())
    high = min(high, FARTHEST * max(_quantile(values, 0.5) for values in runs.values()))  # other processes' long tail
    margin = (high - low) * 0.06 or high * 0.05 or 1.0
    x = linear_scale(low - margin, high + margin, frame.left, frame.x1)
    y = linear_scale(0, 1, frame.y0, frame.top)
    curves, keys = [], []
    for name, values in runs.items():
        shares = [index / 200 for index in range(199)]
        points = [(x(low - margin), frame.y0)]
        points += [(min(x(_quantile(values, share)), frame.x1), y(share)) for share in shares]
        curves.append(tag("path", class_=f"line {name}", d=path(points)))
        curves.append(tag("circle", class_=f"dot {name}", cx=x(_quantile(values, 0.5)), cy=y(0.5), r=4.5))
        keys.append((name, f"{name}: p50 {format_ms(_quantile(values, 0.5))}"))
    inside = [tick for tick in ticks(low - margin, high + margin) if low - margin <= tick <= high + margin]
    return figure(
        "latency",
        "Latency, cumulative share of runs",
        "; ".join(f"{text}, {len(values):,} runs" for (_, text), values in zip(keys, runs.values(), strict=True)),
        frame,
        axes(
            frame,
            x,
            [(tick, f"{tick:g}") for tick in inside],
            "milliseconds of one run",
            y,
            [(share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)],
        ),
        *curves,
        legend(frame, keys),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The sample below which `share` of all samples lie."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
