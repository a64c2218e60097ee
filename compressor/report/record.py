"""Core records -> the JSON the program writes: numbers, words and lists, None for what was not measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import cast

from compressor.core import (
    Certificate,
    ChannelGroup,
    Comparison,
    Cost,
    ExportedModel,
    Held,
    Input,
    Isometry,
    Latency,
    Metric,
    ModelSpec,
    PrunePlan,
)
from compressor.report.environment import environment
from compressor.report.left import left_to_win
from compressor.report.schema import (
    Bench,
    BenchRecord,
    CertificateRecord,
    Gate,
    IsometryRecord,
    LatencyRecord,
    LayerTimeRecord,
    MetricRecord,
    ModelRecord,
    Ratios,
    Report,
    Samples,
    SustainedRecord,
    Trainability,
)
from compressor.report.widths import coverage, layers

FORMAT = 1
STAGES = ("dense", "after surgery", "after recalibration", "after retraining")


def sizes(inputs: Sequence[Input]) -> list[int] | list[list[int]]:
    """The shape of a model's one input, or of each, without the batch."""
    shapes = [list(each.shape) for each in inputs]
    return shapes[0] if len(shapes) == 1 else shapes


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


def ratios(dense: Cost, slim: Cost, comparison: Comparison | None) -> Ratios:
    """dense / slim. An unstable measurement has no latency ratio, and none goes without its interval."""
    bounds = interval(comparison.ratio_ci95) if comparison and comparison.stable else None
    return {
        "params": dense.params / slim.params if slim.params else None,
        "macs": dense.macs / slim.macs if slim.macs else None,
        "latency": finite(comparison.ratio) if comparison and bounds else None,
        "latency_ci95": bounds,
    }


def samples(comparison: Comparison | None) -> Samples:
    """Every sample of both models, for the page's figure."""
    if comparison is None:
        return {"dense": [], "slim": []}
    return {"dense": list(comparison.a.samples), "slim": list(comparison.b.samples) if comparison.b else []}


def bench(comparison: Comparison, files: Sequence[str]) -> Bench:
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
        "layer_times": (times := layer_times(comparison)),
        "left_to_win": left_to_win(times),
        "sustained": cast(SustainedRecord, asdict(comparison.sustained)) if comparison.sustained else None,
    }


def layer_times(comparison: Comparison | None) -> list[LayerTimeRecord]:
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


def assemble(
    *,
    name: str,
    method: str,
    steps: Sequence[str],
    spec: ModelSpec,
    tensors: Sequence[str],
    dense_cost: Cost,
    slim_cost: Cost,
    dense_onnx: ExportedModel,
    slim_onnx: ExportedModel,
    metric: Metric | None,
    quality: Mapping[str, float],
    comparison: Comparison | None,
    certificate: Certificate,
    groups: Sequence[ChannelGroup],
    plan: PrunePlan,
    held: Sequence[Held],
    seconds: Mapping[str, float],
    seed: int,
    isometry: Mapping[str, Isometry] = MappingProxyType({}),
    trainability: Trainability | None = None,
    gates: Sequence[Gate] = (),
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Report:
    """All of report.json. `tensors`: the dense state dict's names, in its order. `quality`: stage -> `metric`, which is
    None where there was no data to measure it on.

    Says by itself, as a warning, that the model was not retrained or that accuracy was not measured.
    """
    judged = _metric(metric)
    stages = {stage: finite(quality.get(stage)) for stage in _in_order(quality)}
    after = [value for stage, value in stages.items() if stage != "dense" and value is not None]
    retrained = "after retraining" in quality
    return {
        "version": FORMAT,
        "model": name,
        "architecture": {"source": spec.source, "input": sizes(spec.inputs), "num_classes": spec.num_classes},
        "method": method,
        "steps": list(steps),
        "retrained": retrained,
        "dense": _model(dense_cost, dense_onnx, judged, stages["dense"], comparison.a if comparison else None),
        "slim": _model(
            slim_cost, slim_onnx, judged, after[-1] if after else None, comparison.b if comparison else None
        ),
        "ratios": ratios(dense_cost, slim_cost, comparison),
        "metric": judged,
        "metric_steps": stages,
        "accuracy_steps": {stage: _accuracy(judged, value) for stage, value in stages.items()},
        "isometry": {stage: _isometry(each) for stage, each in isometry.items()},
        "trainability": trainability,
        "certificate": _certificate(certificate),
        "onnx": {
            "opset": slim_onnx.opset,
            "max_abs_error": finite(slim_onnx.max_abs_error),
            "dense_max_abs_error": finite(dense_onnx.max_abs_error),
            "ok": slim_onnx.ok and dense_onnx.ok,
            "compared": slim_onnx.compared,
        },
        "bench": _bench(comparison),
        "layer_times": (times := layer_times(comparison)),
        "left_to_win": left_to_win(times),
        "gates": list(gates),
        "groups": {
            "total": len(groups),
            "pruned": sum(not bool(kept.all()) for kept in plan.kept.values()),
            "frozen": [{"name": group.name, "reason": group.frozen} for group in groups if group.frozen],
        },
        "coverage": coverage(groups, held),
        "layers": layers(groups, plan, tensors),
        "seconds": {stage: float(value) for stage, value in seconds.items()},
        "environment": environment(seed),
        "warnings": [*_unmeasured(retrained, bool(after)), *warnings],
        "notes": [*notes, *dict.fromkeys((*dense_onnx.notes, *slim_onnx.notes))],
    }


def _metric(metric: Metric | None) -> MetricRecord:
    """Accuracy where nothing was measured: most models are judged by it."""
    if metric is None:
        return {"name": "accuracy", "unit": "%", "higher_is_better": True}
    return {"name": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better}


def _accuracy(metric: MetricRecord, value: float | None) -> float | None:
    return value if (metric["name"], metric["unit"]) == ("accuracy", "%") else None


def _model(
    cost: Cost, onnx: ExportedModel, metric: MetricRecord, value: float | None, latency: Latency | None
) -> ModelRecord:
    return {
        "params": cost.params,
        "macs": cost.macs,
        "onnx_bytes": onnx.bytes,
        "onnx_sha256": onnx.sha256,
        "accuracy": _accuracy(metric, value),
        "metric": value,
        "latency_ms": latency_record(latency),
    }


def _in_order(measured: Iterable[str]) -> list[str]:
    """The usual stages and those that were measured beside them, in the order in which they came."""
    order, place = list(STAGES), 0
    for stage in measured:
        if stage not in order:
            order.insert(place, stage)
        place = order.index(stage) + 1
    return order


def _isometry(found: Isometry) -> IsometryRecord:
    return {"mean": found.mean, "error": found.error, "images": found.images}


def _certificate(certificate: Certificate) -> CertificateRecord:
    return {
        "kind": certificate.kind,
        "max_abs_error": finite(certificate.max_abs_error),
        "max_rel_error": finite(certificate.max_rel_error),
        "ok": certificate.ok,
    }


def _bench(comparison: Comparison | None) -> BenchRecord:
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


def _unmeasured(retrained: bool, measured: bool) -> list[str]:
    words = []
    if not retrained:
        words.append("not retrained: until it is, expect the slim model to be less accurate than the dense one")
    if not measured:
        words.append("accuracy not measured: no data was given; add --data to measure it")
    return words
