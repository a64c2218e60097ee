"""The result of `compress bench`: latency of one ONNX file, or of two that were measured in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TypedDict, cast

from rich.console import Console

from compressor.core import Comparison, VerdictKind
from compressor.report.blocks import Fact, Table
from compressor.report.findings.base import finite, finite_interval
from compressor.report.findings.latency import (
    LatencyRecord,
    SetupRecord,
    describe_measurement,
    latency_ratio,
    latency_record,
)
from compressor.report.findings.layer_times import (
    LayerTimeRecord,
    bottleneck_facts,
    layer_time_cells,
    layer_times_record,
    remaining_bottlenecks,
)
from compressor.report.format import NOTHING, format_bytes, format_joules, format_ms, format_ratio, format_significant
from compressor.report.tables import print_facts, print_table, print_warnings

LAYER_ROWS = 12


class SustainedRecord(TypedDict):
    """Median milliseconds at the beginning and at the end of `seconds` without a pause."""

    seconds: float
    first_ms: float
    last_ms: float
    percent_per_minute: float


class BenchResult(SetupRecord):
    """`compress bench`. `b` and all ratios are None for a single file; ratio = a / b."""

    files: list[str]
    a: LatencyRecord
    b: LatencyRecord | None
    ratio: float | None
    ratio_ci95: list[float] | None
    control: float | None
    control_ci95: list[float] | None
    verdict: str
    verdict_kind: VerdictKind
    stable: bool
    environment: dict[str, str]
    layer_times: list[LayerTimeRecord]
    left_to_win: list[str]
    sustained: SustainedRecord | None


def bench_record(comparison: Comparison, files: Sequence[str]) -> BenchResult:
    """Return a comparison as JSON.

    Args:
        comparison: What was measured.
        files: The names of a and, where there is one, of b.
    """
    a = latency_record(comparison.a)
    assert a is not None
    ratio = latency_ratio(comparison)
    times = layer_times_record(comparison)
    return {
        "files": list(files),
        "a": a,
        "b": latency_record(comparison.b),
        "ratio": ratio["latency"],
        "ratio_ci95": ratio["latency_ci95"],
        "control": finite(comparison.control),
        "control_ci95": finite_interval(comparison.control_ci95),
        "verdict": comparison.verdict.words,
        "verdict_kind": comparison.verdict.kind,
        "stable": comparison.stable,
        "target": comparison.target,
        "runtime": comparison.runtime,
        "provider": comparison.provider,
        "threads": comparison.threads,
        "batch": comparison.batch,
        "environment": dict(comparison.environment),
        "layer_times": times,
        "left_to_win": remaining_bottlenecks(times),
        "sustained": cast(SustainedRecord, asdict(comparison.sustained)) if comparison.sustained else None,
    }


def show_bench(bench: BenchResult, console: Console) -> None:
    """Print the latency of one file or of two; a ratio never appears without its interval.

    Args:
        bench: The result.
        console: Where to print.
    """
    models = [latency for latency in (bench["a"], bench["b"]) if latency is not None]
    rows = [_latency_cells(name, latency) for name, latency in zip(bench["files"], models, strict=True)]
    print_table(console, Table(("", "p50", "95 % interval", "p90", "p99", "runs", "cold start"), rows))
    if bench["layer_times"]:
        slowest = sorted(bench["layer_times"], key=lambda layer: -max(layer["before_us"] or 0, layer["after_us"] or 0))
        shown = [layer_time_cells(layer) for layer in slowest[:LAYER_ROWS]]
        if len(slowest) > LAYER_ROWS:
            shown.append((f"{len(slowest) - LAYER_ROWS} more rows, see --json", "", "", ""))
        print_table(console, Table(("slowest layers", *bench["files"], "ratio"), shown))
    print_facts(console, _facts(bench, models))
    if not bench["stable"]:
        print_warnings(console, ["the measurement is not stable enough to state a ratio"])


def _latency_cells(name: str, latency: LatencyRecord) -> tuple[str, ...]:
    return (
        name,
        format_ms(latency["p50"]),
        " to ".join(map(format_significant, latency["ci95"])) if latency["ci95"] else NOTHING,
        format_ms(latency["p90"]),
        format_ms(latency["p99"]),
        f"{latency['n']:,}",
        format_ms(latency["cold_start_ms"]),
    )


def _facts(bench: BenchResult, models: Sequence[LatencyRecord]) -> Iterable[Fact]:
    yield Fact("Verdict", bench["verdict"])
    yield Fact("Measured", describe_measurement(bench))
    if bench["control"] is not None:
        ratio = format_ratio(bench["control"], bench["control_ci95"])
        yield Fact("Control", f"{ratio}, the first file against a copy of itself")
    peaks = [latency.get("peak_bytes") for latency in models]
    if all(peaks):
        yield Fact("Peak memory", " and ".join(format_bytes(peak or 0) for peak in peaks))
    energies = [latency.get("energy_j") for latency in models]
    if all(energies):
        yield Fact("Energy", f"{' and '.join(map(format_joules, energies))} per run")
    yield from bottleneck_facts(bench["left_to_win"])
    if (sustained := bench["sustained"]) is not None:
        first, last = format_ms(sustained["first_ms"]), format_ms(sustained["last_ms"])
        drift = f"{sustained['percent_per_minute']:+.2f} % per minute"
        yield Fact(
            "Sustained", f"{first} at the beginning and {last} at the end of {sustained['seconds']:.0f} s, {drift}"
        )
    for name, value in bench["environment"].items():
        yield Fact(name.replace("_", " "), value)
