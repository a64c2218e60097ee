"""What can be asked without compressing anything: inspect, plan, bench, verify."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, StringConstraints
from torch import nn

from compressor import masks, zeros
from compressor.artefacts import REPORT
from compressor.core import Emit, MaskWeights, Pattern, Permute, PrunePlan, RemoveDead, Train
from compressor.deploy.latency import compare
from compressor.deploy.onnx import split
from compressor.deploy.onnx_file import has_free_batch
from compressor.deploy.parity import CannotRun, check_parity
from compressor.deploy.sustained import sustained
from compressor.deploy.target import Target
from compressor.engine import begin, perform
from compressor.graph.analyse import analyse
from compressor.graph.certificate import equals_scattered
from compressor.graph.cost import count
from compressor.graph.coverage import held
from compressor.graph.footprint import memory_of
from compressor.journal import Journal
from compressor.models.build import build
from compressor.models.checkpoint import sha256
from compressor.models.folder import PLAN, WEIGHTS, load_folder, read_record
from compressor.models.source import load_model
from compressor.prospects import expected, kept_share, least, risk, tell, worth_it
from compressor.recipe import Recipe
from compressor.report.record import sizes
from compressor.report.record_latency import bench as bench_record
from compressor.report.schema_latency import Bench
from compressor.report.schema_verbs import Check, Inspect, OnnxWeights, Plan, Rates, Verify
from compressor.report.widths import coverage
from compressor.sparsity.pattern import holds
from compressor.stages import find_recipe_data, load, open_recipe_data, rounding, steps, stopwatch
from compressor.targets import open_target
from compressor.work import Surroundings, example

MODEL = "model.onnx"
RATES = 200  # places a learning-rate schedule is asked at, so that a short training has a smooth curve too
PROVEN = (MODEL, WEIGHTS, PLAN)  # what the proofs are about; report.json must name their hashes


def inspect(source: str, *, trust_pickle: bool, emit: Emit) -> Inspect:
    """What a model is, what can be cut from it, and what can't and why."""
    emit("stage", {"name": "load"})
    model = load_model(source, trust_pickle=trust_pickle)
    emit("stage", {"name": "analyse"})
    inputs = example(model)
    structure = analyse(model.module, *inputs, name=model.name)
    cost = count(model.module, *inputs)
    return {
        "model": model.name,
        "source": source,
        "architecture": model.spec.source,
        "notes": list(model.notes),
        "params": cost.params,
        "macs": cost.macs,
        "input": sizes(model.spec.inputs),
        "num_classes": model.spec.num_classes,
        "groups": [
            {"name": group.name, "channels": group.size, "layers": len(group.writers()), "frozen": group.frozen}
            for group in structure.groups
        ],
        "coverage": coverage(structure.groups, held(structure.groups, structure.cost)),
    }


def inspect_onnx(path: Path) -> OnnxWeights:
    """Which weights of any ONNX file keep the 2:4 rule, and which a runtime could use."""
    return zeros.inspect_onnx(path, Pattern(2, 4), "tensorrt-ampere")


def plan(
    source: str, recipe: Recipe, *, data: str | None, trust_pickle: bool, emit: Emit, targets: Path | None = None
) -> Plan:
    """What a run would do and bring, without training: the cut is made on a copy and timed on the target.

    A target of latency is answered by the cost surface alone; what meets other targets is measured.
    """
    target = open_target(recipe.bench.target, recipe.bench.threads, file=targets)
    retrain = find_recipe_data(recipe, data) is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Journal(folder / "run.jsonl", emit) as journal:
            dense = load(source, recipe, trust_pickle, journal)
            watch = stopwatch(recipe, target, dense, journal, rounds=0)
            around = Surroundings(None, recipe.seed, journal, folder / "unused", "", stopwatch=watch)
            start = work = begin(dense, around)
            round_to = rounding(recipe, target, journal)
            for step in steps(recipe, round_to, retrain=False):
                if not isinstance(step, Train | Permute | MaskWeights | RemoveDead):  # order and zeros cost the same
                    work = perform(step, work, around)
            if watch is not None and not recipe.selection(round_to).timed:
                with watch.started() as clock:
                    tell(clock.pair(start.model.module, work.model.module), journal)
            latency = expected(journal.events)
            images = open_recipe_data(recipe, data, dense, journal) if retrain else None
    before, after = count(dense.module, *example(dense)), count(work.model.module, *example(dense))
    cut = work.plan or PrunePlan({})
    planned = steps(recipe, round_to, retrain=retrain)
    return {
        "model": dense.name,
        "method": recipe.prune.method,
        "steps": [str(step) for step in planned],
        "target": _asked(recipe),
        "round_to": cut.round_to,
        "dense": {"params": before.params, "macs": before.macs},
        "slim": {"params": after.params, "macs": after.macs},
        "ratios": {"params": before.params / after.params, "macs": before.macs / after.macs},
        "groups": [
            {"name": each.name, "before": each.size, "after": int(cut.kept[each.name].sum())}
            for each in work.groups
            if each.name in cut.kept
        ],
        "frozen": [{"name": each.name, "reason": each.frozen} for each in work.groups if each.frozen],
        "coverage": coverage(work.groups, held(work.groups, work.structure.cost)),
        "latency": latency,
        "memory": {
            "dense": memory_of(dense.module, *example(dense)),
            "slim": memory_of(work.model.module, *example(dense)),
        },
        "least": least(start.structure),
        "risk": None if images is None else risk(start, work, images),
        "kept": kept_share(start, work),
        "worth_it": worth_it(latency, before.macs / after.macs, work.plan is not None),
        "sparsity": masks.EXPECTED
        if recipe.method.unstructured
        else zeros.predicted(work, None if target is None else target.provider),
        "schedules": [_rates(step) for step in planned if isinstance(step, Train) and step.epochs],
    }


def bench(
    a: Path,
    b: Path | None,
    *,
    target: Target,
    batch: int,
    seconds: float,
    layers: bool,
    sustain: float | None,
    emit: Emit,
) -> Bench:
    """Measured latency of one ONNX file, or of two in turn."""
    with target.opened() as device:
        found = compare(device, a, b, batch=batch, seconds=seconds, layers=layers, emit=emit)
        if sustain is not None:
            found = replace(found, sustained=sustained(device, b or a, batch=batch, seconds=sustain))
    return bench_record(found, [each.name for each in (a, b) if each is not None])


def verify(folder: Path, *, emit: Emit) -> Verify:
    """Check an output folder again: hashes, parity, the masked-dense equality of what is in it, and its gates."""
    emit("stage", {"name": "verify"})
    report = read_record(folder / REPORT, _Report)
    checks = [_hash_check(folder / name, report.files.get(name)) for name in dict.fromkeys([*PROVEN, *report.files])]
    if all(check["ok"] for check in checks):
        checks += _proofs(folder, report)
    checks += [_check(gate.name, gate.ok, f"{gate.asked}: {gate.found}") for gate in report.gates]
    return {"folder": str(folder), "checks": checks, "ok": all(check["ok"] for check in checks)}


def _proofs(folder: Path, report: _Report) -> Iterator[Check]:
    """Parity and certificate, computed anew from the files."""
    slim = load_folder(folder)
    inputs = example(slim, images=2)
    try:
        parity = check_parity(folder / MODEL, slim.module, split(inputs, has_free_batch(folder / MODEL)))
        found = f"{parity.compared} of ONNX Runtime and PyTorch differ by {parity.max_abs_error:.1e}"
        yield _check("parity", parity.ok, found)
    except CannotRun as reason:
        yield _check("parity", False, str(reason))
    proof = equals_scattered(slim.module, build(slim.spec), slim.kept, *inputs)
    if not proof.ok:  # unless the plan changed what norms work on
        dense = build(slim.spec)
        structure = analyse(dense, *example(slim), name=slim.name, mixing=True)
        proof = equals_scattered(slim.module, dense, slim.kept, *inputs, structure=structure)
    yield _check("certificate", proof.ok, f"slim and masked dense differ by {proof.max_rel_error:.1e} in float64")
    if report.sparsity is not None:
        yield from _still_sparse(folder, slim.module, report.sparsity)
    if report.masks is not None:
        yield from _still_masked(folder, slim.module, report.masks)
    cost = count(slim.module, *example(slim))
    same = (cost.params, cost.macs) == (report.slim.params, report.slim.macs)
    yield _check("cost", same, f"{cost.params:,} parameters, {cost.macs:,} MACs")


def _still_sparse(folder: Path, slim: nn.Module, sparsity: _Sparsity) -> Iterator[Check]:
    """The rule, in the module and in the ONNX file, for each weight that was masked."""
    pattern, layers = Pattern(*sparsity.pattern), [each for each in sparsity.layers if each.reason is None]
    broken = [each.name for each in layers if not holds(slim.get_submodule(each.name).get_parameter("weight"), pattern)]
    said = f"{len(layers) - len(broken)} of {len(layers)} masked layers"
    yield _check(f"{pattern} in {WEIGHTS}", not broken, f"{said}{f', not {broken[0]}' if broken else ''}")
    held, missing = zeros.shown(folder / MODEL, sparsity.runtime, pattern, [each.shape for each in layers])
    yield _check(f"{pattern} in {MODEL}", not missing, f"{held} weights, {len(missing)} of the masked ones missing")


def _still_masked(folder: Path, slim: nn.Module, record: _Masks) -> Iterator[Check]:
    """In the module and in the ONNX file, of every layer no more weights that are not zero than the report says."""
    broken = [
        each.name
        for each in record.layers
        if int(slim.get_submodule(each.name).get_parameter("weight").count_nonzero()) > each.left
    ]
    said = f"{len(record.layers) - len(broken)} of {len(record.layers)} layers"
    yield _check(f"masks in {WEIGHTS}", not broken, f"{said}{f', not {broken[0]}' if broken else ''}")
    held, missing = masks.shown(folder / MODEL, [(each.shape, each.left) for each in record.layers])
    yield _check(f"masks in {MODEL}", not missing, f"{held} weights, {len(missing)} missing")


class _SparseLayer(BaseModel):
    name: str
    shape: tuple[int, ...]
    reason: str | None


class _Sparsity(BaseModel):
    pattern: tuple[int, int]
    runtime: str
    layers: list[_SparseLayer]


class _MaskedLayer(BaseModel):
    name: str
    shape: tuple[int, ...]
    left: int


class _Masks(BaseModel):
    layers: list[_MaskedLayer]


class _Gate(BaseModel):
    name: str
    ok: bool
    asked: str
    found: str


class _Cost(BaseModel):
    params: int
    macs: int


class _Report(BaseModel):
    """What of report.json is checked."""

    version: Literal[1]
    files: dict[Annotated[str, StringConstraints(pattern=r"^[^/]+$")], str]
    slim: _Cost
    gates: list[_Gate]
    sparsity: _Sparsity | None = None
    masks: _Masks | None = None


def _hash_check(path: Path, digest: str | None) -> Check:
    found = sha256(path) if path.is_file() else "no such file"
    if digest is None:
        return _check(f"hash of {path.name}", False, f"{REPORT} has none")
    detail = found[:12] if found == digest else f"{found[:12]}, not {digest[:12]}"
    return _check(f"hash of {path.name}", found == digest, detail)


def _check(name: str, ok: bool, detail: str) -> Check:
    return {"name": name, "ok": ok, "detail": detail}


def _asked(recipe: Recipe) -> str:
    target = recipe.prune.target
    return ", ".join(f"{key}: {value}" for key, value in target.model_dump().items()) if target else "no channels go"


def _rates(step: Train) -> Rates:
    """At whole epochs and, of shorter trainings, tenths or less; what holds at the end is what held right before it."""
    each = next(parts for parts in (1, 10, 20, 50, 100, RATES) if parts * step.epochs >= RATES)
    places = [index / each for index in range(step.epochs * each)] + [math.nextafter(step.epochs, 0)]
    rates = [(place, step.optimizer.lr * step.schedule(place)) for place in places]
    return {"step": str(step), "epochs": step.epochs, "rates": [*rates[:-1], (float(step.epochs), rates[-1][1])]}
