"""What the output folder holds beside the two ONNX files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from compressor.bench.runner.energy import meter_readings, meter_unavailable_reason
from compressor.budget.memory import memory_of
from compressor.core import Comparison, PrunePlan
from compressor.graph.cost import count_cost
from compressor.graph.cost import zeros as zero_entries
from compressor.graph.prunable_share import prunable_shares
from compressor.models.checkpoint import sha256
from compressor.models.saved_model import PLAN, WEIGHTS, plan_json
from compressor.output import nm_report as zeros
from compressor.output import unstructured_report as masks
from compressor.output.exports import Exports
from compressor.output.folder import REPORT
from compressor.output.gates import judge_gates
from compressor.recipe import Recipe
from compressor.report import costs
from compressor.report.files import write_json, write_text
from compressor.report.history import stable_rate_record, trainability_record
from compressor.report.page import write_page
from compressor.report.record import assemble_report
from compressor.report.record_latency import bench_record, sample_rows
from compressor.report.schema import Report
from compressor.run_log import RunLog
from compressor.sparsity.compressed_format import pack
from compressor.steps.state import PruningState, example_inputs
from compressor.surgery.removal import kept_sizes


def write_outputs(
    recipe: Recipe,
    start: PruningState,
    work: PruningState,
    exports: Exports,
    comparisons: Sequence[Comparison],
    folder: Path,
    journal: RunLog,
) -> Report:
    """Write weights, plan, resolved recipe and report; the report names every other file's SHA-256."""
    assert work.certificate is not None, "every method proves what it did"
    dense_cost, slim_cost = (count_cost(each.model.module, *example_inputs(each.model)) for each in (start, work))
    dense_memory, slim_memory = (memory_of(each.model.module, *example_inputs(each.model)) for each in (start, work))
    taken = {"size": (exports.dense.bytes, exports.slim.bytes), "memory": (dense_memory, slim_memory)}
    gates = judge_gates(
        recipe, work.original, masks.remaining_weights(work, slim_cost), work.quality, comparisons, work.metric, taken
    )
    report = assemble_report(
        name=start.model.name,
        method=recipe.prune.method,
        steps=work.log,
        spec=work.model.spec,
        tensors=tuple(start.model.module.state_dict()),
        dense_cost=dense_cost,
        slim_cost=slim_cost,
        dense_onnx=exports.dense,
        slim_onnx=exports.slim,
        metric=work.metric,
        quality=work.quality,
        comparison=comparisons[0] if comparisons else None,
        certificate=work.certificate,
        groups=work.groups,
        plan=work.plan or PrunePlan({}),
        held=prunable_shares(work.groups, work.structure.cost),
        seconds={**journal.seconds, **work.seconds},
        seed=recipe.seed,
        isometry=work.isometry,
        trainability=trainability_record(journal.events) if work.metric and work.metric.name == "accuracy" else None,
        stable_rate=stable_rate_record(journal.events),
        gates=gates,
        warnings=journal.warnings,
        notes=journal.notes,
    )
    tensors = _distinct(work.model.module.state_dict(keep_vars=True))
    packed = zeros.write_packed(work, tensors)
    (folder / WEIGHTS).write_bytes(save(pack(tensors, packed)))
    layers = {each["name"]: each for each in report["layers"]}
    attributes = kept_sizes(work.structure.attributes, work.model.module)
    digest = sha256(folder / WEIGHTS)
    write_json(folder / PLAN, plan_json(work.model, attributes, layers, weights_sha256=digest, packed=packed))
    write_text(folder / "recipe.yaml", recipe.to_yaml())
    report["sparsity"] = zeros.nm_record(work, exports.slim.path, comparisons)
    report["masks"] = masks.unstructured_record(start, work, exports.slim.path, comparisons)
    nothing = zero_entries(work.model.module, *example_inputs(work.model))
    report["training"] = costs.training_record(work.trainings, meter_readings(), meter_unavailable_reason())
    report["removed"] = costs.removed_record(dense_cost, slim_cost, nothing)
    report["disk"] = costs.disk_record(
        _bytes(start), _bytes(work), (folder / WEIGHTS).stat().st_size, slim_cost.weights, nothing
    )
    report["int8"] = zeros.write_int8(work, exports.int8)
    report["batches"] = [bench_record(each, ("dense.onnx", "model.onnx")) for each in comparisons]
    write_page(report, journal.events, sample_rows(comparisons[0] if comparisons else None), folder / "report.html")
    others = [path for path in sorted(folder.iterdir()) if path.name != REPORT and not path.name.startswith(".")]
    report["files"] = {path.name: sha256(path) for path in others}
    write_json(folder / REPORT, report)
    return report


def _bytes(work: PruningState) -> int:
    """Of all tensors of a model."""
    return sum(each.nbytes for each in _distinct(work.model.module.state_dict(keep_vars=True)).values())


def _distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tensor with several names is stored under its first."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return {name: tensors[name].detach().contiguous() for name in first.values()}
