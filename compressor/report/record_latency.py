"""Times measured -> the JSON the program writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

from compressor.core import Comparison, Cost, Latency
from compressor.report.left import remaining_bottlenecks
from compressor.report.schema import Ratios
from compressor.report.schema_latency import (
    BenchRecord,
    BenchResult,
    LatencyRecord,
    LayerTimeRecord,
    Samples,
    SustainedRecord,
)


def finite(value: float | None) -> float | None:
    """`value`, or None where JSON has no number for it (NaN and infinities)."""
    return float(value) if value is not None and math.isfinite(value) else None


def interval(bounds: tuple[float, float] | None) -> list[float] | None:
    """Both bounds, or None unless both are numbers."""
    return [float(bound) for bound in bounds] if bounds and all(map(math.isfinite, bounds)) else None


def latency_record(latency: Latency | None) -> LatencyRecord | None:
    """Percentiles without the samples."""
    if latency is None:
        return None
    return {
        "p50": float(latency.p50),
        "p90": finite(latency.p90),
        "p99": finite(latency.p99),
        "n": latency.n,
        "ci95": interval(latency.ci95),
        "cold_start_ms": finite(latency.cold_start_ms),
        "energy_j": finite(latency.energy_j),
        "peak_bytes": latency.peak_bytes,
    }


def ratios_record(dense: Cost, slim: Cost, comparison: Comparison | None) -> Ratios:
    """dense / slim. An unstable measurement has no latency ratio, and none goes without its interval."""
    bounds = interval(comparison.ratio_ci95) if comparison and comparison.stable else None
    return {
        "params": dense.params / slim.params if slim.params else None,
        "macs": dense.macs / slim.macs if slim.macs else None,
        "latency": finite(comparison.ratio) if comparison and bounds else None,
        "latency_ci95": bounds,
    }


def sample_rows(comparison: Comparison | None) -> Samples:
    """Every sample of both models, for the page's figure."""
    if comparison is None:
        return {"dense": [], "slim": []}
    return {"dense": list(comparison.a.samples), "slim": list(comparison.b.samples) if comparison.b else []}


def bench_record(comparison: Comparison, files: Sequence[str]) -> BenchResult:
    """What `compress bench` prints; `files` are the names of a and, where there is one, of b."""
    first = latency_record(comparison.a)
    assert first is not None
    bounds = interval(comparison.ratio_ci95) if comparison.stable else None
    return {
        "files": list(files),
        "a": first,
        "b": latency_record(comparison.b),
        "ratio": finite(comparison.ratio) if bounds else None,
        "ratio_ci95": bounds,
        "control": finite(comparison.control),
        "control_ci95": interval(comparison.control_ci95),
        "verdict": comparison.verdict,
        "stable": comparison.stable,
        "target": comparison.target,
        "runtime": comparison.runtime,
        "provider": comparison.provider,
        "threads": comparison.threads,
        "batch": comparison.batch,
        "environment": dict(comparison.environment),
        "layer_times": (times := layer_times_record(comparison)),
        "left_to_win": remaining_bottlenecks(times),
        "sustained": cast(SustainedRecord, asdict(comparison.sustained)) if comparison.sustained else None,
    }


def conditions_record(comparison: Comparison | None) -> BenchRecord:
    """What was measured on, and what came of it, in words."""
    return {
        "target": comparison.target if comparison else "none",
        "runtime": comparison.runtime if comparison else None,
        "provider": comparison.provider if comparison else None,
        "threads": comparison.threads if comparison else None,
        "batch": comparison.batch if comparison else None,
        "verdict": comparison.verdict if comparison else "not measured",
        "control": finite(comparison.control) if comparison else None,
        "control_ci95": interval(comparison.control_ci95) if comparison else None,
        "environment": dict(comparison.environment) if comparison else {},
    }


def layer_times_record(comparison: Comparison | None) -> list[LayerTimeRecord]:
    """Where the time goes, in the model's order; nothing where it was not profiled."""
    return [
        {
            "name": layer.name,
            "op": layer.op,
            "before_us": finite(layer.before_us),
            "after_us": finite(layer.after_us),
            "before_bytes": layer.before_bytes,
            "after_bytes": layer.after_bytes,
        }
        for layer in (comparison.layers if comparison else ())
    ]
