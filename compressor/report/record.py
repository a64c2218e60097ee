"""Core records -> the JSON the program writes: numbers, words and lists, None for what was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from compressor.core import (
    Certificate,
    ChannelGroup,
    Comparison,
    Cost,
    ExportedModel,
    JacobianIsometry,
    Latency,
    Metric,
    ModelInput,
    ModelSpec,
    PrunableShare,
    PrunePlan,
)
from compressor.report.environment import environment_record
from compressor.report.left import remaining_bottlenecks
from compressor.report.record_latency import (
    conditions_record,
    finite,
    latency_record,
    layer_times_record,
    ratios_record,
)
from compressor.report.schema import (
    CertificateRecord,
    Gate,
    IsometryRecord,
    MetricRecord,
    ModelRecord,
    Report,
    StableRateRecord,
    Trainability,
)
from compressor.report.widths import frozen_coverage, layer_widths

FORMAT = 1
STAGES = ("dense", "after surgery", "after recalibration", "after retraining")


def model_sizes(inputs: Sequence[ModelInput]) -> list[int] | list[list[int]]:
    """The shape of a model's one input, or of each, without the batch."""
    shapes = [list(each.shape) for each in inputs]
    return shapes[0] if len(shapes) == 1 else shapes


def assemble_report(
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
    held: Sequence[PrunableShare],
    seconds: Mapping[str, float],
    seed: int,
    isometry: Mapping[str, JacobianIsometry] = MappingProxyType({}),
    trainability: Trainability | None = None,
    stable_rate: StableRateRecord | None = None,
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
        "architecture": {"source": spec.source, "input": model_sizes(spec.inputs), "num_classes": spec.num_classes},
        "method": method,
        "steps": list(steps),
        "retrained": retrained,
        "dense": _model(dense_cost, dense_onnx, judged, stages["dense"], comparison.a if comparison else None),
        "slim": _model(
            slim_cost, slim_onnx, judged, after[-1] if after else None, comparison.b if comparison else None
        ),
        "ratios": ratios_record(dense_cost, slim_cost, comparison),
        "metric": judged,
        "metric_steps": stages,
        "accuracy_steps": {stage: _accuracy(judged, value) for stage, value in stages.items()},
        "isometry": {stage: _isometry(each) for stage, each in isometry.items()},
        "trainability": trainability,
        "stable_rate": stable_rate,
        "certificate": _certificate(certificate),
        "onnx": {
            "opset": slim_onnx.opset,
            "max_abs_error": finite(slim_onnx.max_abs_error),
            "dense_max_abs_error": finite(dense_onnx.max_abs_error),
            "ok": slim_onnx.ok and dense_onnx.ok,
            "compared": slim_onnx.compared,
        },
        "bench": conditions_record(comparison),
        "layer_times": (times := layer_times_record(comparison)),
        "left_to_win": remaining_bottlenecks(times),
        "gates": list(gates),
        "groups": {
            "total": len(groups),
            "pruned": sum(not bool(kept.all()) for kept in plan.kept.values()),
            "frozen": [{"name": group.name, "reason": group.frozen} for group in groups if group.frozen],
        },
        "coverage": frozen_coverage(groups, held),
        "layers": layer_widths(groups, plan, tensors),
        "seconds": {stage: float(value) for stage, value in seconds.items()},
        "environment": environment_record(seed),
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


def _isometry(found: JacobianIsometry) -> IsometryRecord:
    return {"mean": found.mean, "error": found.error, "images": found.images}


def _certificate(certificate: Certificate) -> CertificateRecord:
    return {
        "kind": certificate.kind,
        "max_abs_error": finite(certificate.max_abs_error),
        "max_rel_error": finite(certificate.max_rel_error),
        "ok": certificate.ok,
    }


def _unmeasured(retrained: bool, measured: bool) -> list[str]:
    words = []
    if not retrained:
        words.append("not retrained: until it is, expect the slim model to be less accurate than the dense one")
    if not measured:
        words.append("accuracy not measured: no data was given; add --data to measure it")
    return words
