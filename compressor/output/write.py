"""Writes the output folder: weights, plan, recipe, report.json and report.html, beside the two ONNX files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from compressor.atomic_write import write_bytes, write_json, write_text
from compressor.budget.memory import memory_of
from compressor.core import Comparison, LoadedModel, NMPattern
from compressor.execution.dropped_blocks import is_inside
from compressor.file_digest import sha256
from compressor.graph.cost import count_cost, count_zeros
from compressor.models.build import can_rebuild
from compressor.models.families import family_of
from compressor.models.families.base import FileFamily, LibraryFiles
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.plan_record import PLAN, plan_json
from compressor.models.saved_model import WEIGHTS
from compressor.output.exports import Exports
from compressor.output.folder import PAGE, RECIPE, REPORT
from compressor.output.gates import judge_gates
from compressor.output.report_digest import DIGEST, report_digest
from compressor.recipe import Recipe
from compressor.report.findings import Report, build_report
from compressor.report.findings.answer_agreement import stage_agreement
from compressor.report.findings.gate_results import Gate
from compressor.report.findings.group_errors import curves_json
from compressor.report.findings.layer_widths import run_widths
from compressor.report.html import write_page
from compressor.report.run_result import RunResult
from compressor.run_log import RunLog
from compressor.sparsity.compressed_format import pack
from compressor.steps.state import PruningState
from compressor.surgery.removal import size_attributes

ERROR_CURVES = "error_curves.json"


def write_outputs(
    recipe: Recipe,
    baseline: PruningState,
    state: PruningState,
    exports: Exports,
    comparisons: Sequence[Comparison],
    folder: Path,
    log: RunLog,
) -> Report:
    """Write everything but the ONNX files; report.json has its own digest and the SHA-256 of every other file.

    Args:
        recipe: The resolved recipe.
        baseline: The state before the first step.
        state: The state after the last step.
        exports: The ONNX files.
        comparisons: Latency of dense and slim, one for each batch size.
        folder: The output folder, where the ONNX files already are.
        log: Warnings, notes and times of the run.

    Returns:
        Report.json.

    Raises:
        VerificationFailed: An ONNX file does not hold the zeros that the module holds.
    """
    if not can_rebuild(state.model.spec):
        log.warning("verify cannot check this folder: only the pickle can rebuild the architecture")
    write_text(folder / RECIPE, recipe.to_yaml())
    write_weights(folder, baseline, state)
    if state.errors is not None:
        write_json(folder / ERROR_CURVES, curves_json(state.errors))
    library = save_for_library(state.model, folder)
    inputs = example_inputs(state.model)
    dense_cost, slim_cost = (count_cost(model.module, *inputs) for model in (baseline.model, state.model))
    run = RunResult(
        recipe=recipe,
        baseline=baseline,
        state=state,
        dense_cost=dense_cost,
        slim_cost=slim_cost,
        zero_weights=count_zeros(state.model.module, *inputs),
        dense_onnx=exports.dense,
        slim_onnx=exports.slim,
        int8_onnx=exports.int8,
        comparisons=comparisons,
        gates=(),
        weights_bytes=(folder / WEIGHTS).stat().st_size,
        seconds={**log.seconds, **state.seconds},
        warnings=log.warnings,
        notes=log.notes,
        library=library,
    )
    run = replace(run, gates=_judge(run))
    report = build_report(run)
    write_page(report, run, folder / PAGE)
    report["files"] = {path.relative_to(folder).as_posix(): sha256(path) for path in _files(folder)}
    report[DIGEST] = report_digest(report)
    write_json(folder / REPORT, report)
    return report


def save_for_library(model: LoadedModel, folder: Path) -> LibraryFiles | None:
    """Write the slim model as the library that the model comes from reads it.

    Args:
        model: The slim model.
        folder: The output folder.

    Returns:
        What was written; None where the model comes from no such library.
    """
    family = family_of(model.spec.source)
    return family.save(model, folder) if isinstance(family, FileFamily) else None


def _files(folder: Path) -> list[Path]:
    """Every file but report.json and hidden ones."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / REPORT)
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _judge(run: RunResult) -> list[Gate]:
    """Every target and gate of the recipe, judged on this run."""
    inputs, state = example_inputs(run.state.model), run.state
    slim_cost = replace(run.slim_cost, weights=run.slim_cost.weights - state.masked_weights)
    cost = state.baseline.cost
    sizes = {  # an earlier run may have pruned the model: the size of the original's file follows its parameters
        "size": (run.dense_onnx.bytes * cost.params / run.dense_cost.params, run.slim_onnx.bytes),
        "memory": (memory_of(run.baseline.model.module, *inputs), memory_of(state.model.module, *inputs)),
    }
    last = list(state.agreement.values())[-1:]
    agreement = stage_agreement(last[0]) if last else None
    quality, metric = state.quality, state.metric
    return judge_gates(run.recipe, cost, slim_cost, quality, run.comparisons, metric, sizes, agreement)


def write_weights(folder: Path, baseline: PruningState, state: PruningState) -> None:
    """Write slim.safetensors and plan.json, from which `compressor.load` rebuilds the module.

    Args:
        folder: The output folder.
        baseline: The state before the first step.
        state: The state after the last step.
    """
    tensors = _distinct(state.model.module.state_dict(keep_vars=True))
    packed: dict[str, NMPattern] = {}
    if state.sparse is not None and state.sparse.sparsity.packed:
        packed = {name: state.sparse.sparsity.pattern for name in state.masks if name in tensors}
    write_bytes(folder / WEIGHTS, save(pack(tensors, packed)))
    layers = {layer["name"]: layer for layer in run_widths(baseline, state)}
    family = family_of(state.model.spec.source)
    source = state.model.spec.source if family is None else family.save_architecture(state.model.spec, folder)
    model = replace(state.model, spec=replace(state.model.spec, source=source))
    remaining = [part for part in state.baseline.graph.attributes if not is_inside(part.module, state.model.dropped)]
    attributes = size_attributes(remaining, state.model.module)
    digest = sha256(folder / WEIGHTS)
    write_json(folder / PLAN, plan_json(model, attributes, layers, weights_sha256=digest, packed=packed))


def _distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tensor with several names is stored under its first."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return {name: tensors[name].detach().contiguous() for name in first.values()}
