"""`compress verify`: prove an output folder again from its files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints
from torch import nn

from compressor.core import Certificate, EventSink, LoadedModel, ModelSpec, NMPattern
from compressor.errors import VerificationFailed
from compressor.export.onnx import split_batches
from compressor.export.onnx_file import has_free_batch
from compressor.export.parity import CannotRun, check_parity
from compressor.export.tensor_names import TensorNames
from compressor.file_digest import sha256
from compressor.file_module import batch_at_most
from compressor.graph.cost import count_cost
from compressor.graph.residual_blocks import residual_blocks
from compressor.models.build import build_named, can_rebuild
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.plan_record import PLAN, read_record
from compressor.models.saved_model import WEIGHTS, load_folder
from compressor.output.exports import SLIM_MODEL
from compressor.output.folder import REPORT
from compressor.output.report_digest import DIGEST, report_digest
from compressor.report.findings.gate_results import Gate, GateStatus
from compressor.report.verify_result import Check, Verify
from compressor.sparsity.nm_masks import satisfies_pattern
from compressor.sparsity.onnx_check import find_masked_weights, find_nm_weights
from compressor.sparsity.runtimes import RUNTIMES
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import DROPPED, RESTRICTED, verify_against_original

PROVEN = (SLIM_MODEL, WEIGHTS, PLAN)  # the proofs are about these files; report.json must have their hashes


def verify_folder(folder: Path, *, emit: EventSink) -> Verify:
    """Check hashes, parity, certificate and gates of an output folder.

    Args:
        folder: The output folder.
        emit: Receives the events.

    Returns:
        Every check with its verdict; `proven` covers all of them but the gates.

    Raises:
        ModelError: The folder is not a complete output folder.
    """
    emit("stage", {"name": "verify"})
    report = read_record(folder / REPORT, _Report)
    checks = list(_report_check(folder / REPORT))
    checks += [_hash_check(folder / name, report.files.get(name)) for name in dict.fromkeys([*PROVEN, *report.files])]
    if all(check["ok"] for check in checks):
        checks += _proofs(folder, report)
    proven = all(check["ok"] for check in checks)
    gates = [gate.record() for gate in report.gates]
    checks += [_check(gate["name"], gate["ok"], f"{gate['asked']}: {gate['found']}") for gate in gates]
    ok = all(check["ok"] for check in checks)
    return {"folder": str(folder), "checks": checks, "proven": proven, "gates": gates, "ok": ok}


def require_proven(folder: Path, spec: ModelSpec, emit: EventSink) -> None:
    """Check a folder that was just written as `verify_folder` does. Missed gates are no failure here.

    Args:
        folder: The output folder.
        spec: The model's. Where only a pickle can rebuild the architecture, nothing is checked.
        emit: Receives the events; the run's log, whose hash the report has, is finished.

    Raises:
        VerificationFailed: The files do not hold what the report says.
    """
    if not can_rebuild(spec):
        return
    verdict = verify_folder(folder, emit=emit)
    failed = next((check for check in verdict["checks"] if not check["ok"]), None)
    if not verdict["proven"] and failed is not None:
        problem = f"{failed['name']}: {failed['detail']}"
        raise VerificationFailed("verify/not-proven", "the files just written", problem, "report this model")


def _report_check(path: Path) -> Iterator[Check]:
    """Compare a report with its digest; earlier versions wrote none."""
    content = json.loads(path.read_bytes())
    if DIGEST in content:
        same = content[DIGEST] == report_digest(content)
        yield _check(f"hash of {path.name}", same, "unchanged since the run" if same else "not what the run wrote")


def _proofs(folder: Path, report: _Report) -> Iterator[Check]:
    """Compute parity, certificate, masks and cost from the files."""
    slim = load_folder(folder)
    inputs = example_inputs(slim, images=2)
    try:
        free = has_free_batch(folder / SLIM_MODEL, slim.spec.batch_dims) and batch_at_most(slim.module, 2) == 2
        batches = split_batches(inputs, free, slim.spec.batch_dims)
        names = TensorNames.of(slim.module, batches[0], [one.name for one in slim.spec.inputs])
        parity = check_parity(folder / SLIM_MODEL, slim.module, batches, names)
        detail = f"{parity.compared} of ONNX Runtime and PyTorch differ by {parity.max_abs_error:.1e}"
        yield _check("parity", parity.ok, detail)
    except CannotRun as reason:
        yield _check("parity", False, str(reason))
    proof = _certificate(slim, mixing=RESTRICTED in report.certificate.kind)
    if not proof.ok:  # a model that was pruned twice may have had norms restricted the first time
        proof = _certificate(slim, mixing=RESTRICTED not in report.certificate.kind)
    yield _check("certificate", proof.ok, f"slim and masked dense differ by {proof.max_rel_error:.1e} ({proof.kind})")
    if report.sparsity is not None:
        yield from _still_sparse(folder, slim.module, report.sparsity)
    if report.masks is not None:
        yield from _still_masked(folder, slim.module, report.masks)
    cost = count_cost(slim.module, *example_inputs(slim))
    same = (cost.params, cost.macs) == (report.slim.params, report.slim.macs)
    yield _check("cost", same, f"{cost.params:,} parameters, {cost.macs:,} MACs")


def _certificate(slim: LoadedModel, *, mixing: bool) -> Certificate:
    """Compare with the weights in the original architecture; `mixing`: its norms use the kept channels only."""
    dense = build_named(slim.spec)
    inputs = example_inputs(slim, images=2)
    graph = analyze(dense, *example_inputs(slim), name=slim.name, mixing=True) if mixing else None
    dropped = [block for block in residual_blocks(dense, *inputs) if block.name in slim.dropped] if slim.dropped else []
    if len(dropped) < len(slim.dropped):
        return Certificate((DROPPED,), math.inf, math.inf, ok=False)
    return verify_against_original(slim.module, dense, slim.kept, *inputs, graph=graph, dropped=dropped)


def _still_sparse(folder: Path, slim: nn.Module, sparsity: _Sparsity) -> Iterator[Check]:
    """Check the N:M pattern of every masked weight, in the module and in the ONNX file."""
    pattern, layers = NMPattern(*sparsity.pattern), [layer for layer in sparsity.layers if layer.reason is None]
    broken = [
        layer.name
        for layer in layers
        if not satisfies_pattern(slim.get_submodule(layer.name).get_parameter("weight"), pattern)
    ]
    detail = f"{len(layers) - len(broken)} of {len(layers)} masked layers"
    yield _check(f"{pattern} in {WEIGHTS}", not broken, f"{detail}{f', not {broken[0]}' if broken else ''}")
    matching, missing = find_nm_weights(
        folder / SLIM_MODEL, RUNTIMES[sparsity.runtime], pattern, [layer.shape for layer in layers]
    )
    yield _check(
        f"{pattern} in {SLIM_MODEL}", not missing, f"{matching} weights, {len(missing)} of the masked ones missing"
    )


def _still_masked(folder: Path, slim: nn.Module, record: _Masks) -> Iterator[Check]:
    """Check that no layer has more nonzero weights than the report says, in the module and in the ONNX file."""
    broken = [
        layer.name
        for layer in record.layers
        if int(slim.get_submodule(layer.name).get_parameter("weight").count_nonzero()) > layer.left
    ]
    detail = f"{len(record.layers) - len(broken)} of {len(record.layers)} layers"
    yield _check(f"masks in {WEIGHTS}", not broken, f"{detail}{f', not {broken[0]}' if broken else ''}")
    matching, missing = find_masked_weights(folder / SLIM_MODEL, [(layer.shape, layer.left) for layer in record.layers])
    yield _check(f"masks in {SLIM_MODEL}", not missing, f"{matching} weights, {len(missing)} missing")


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
    requirement: str = Field(alias="asked")
    value: str = Field(alias="found")
    status: GateStatus | None = None  # not written by earlier versions

    def record(self) -> Gate:
        status = self.status or ("met" if self.ok else "missed")
        return {"name": self.name, "asked": self.requirement, "found": self.value, "ok": self.ok, "status": status}


class _Certificate(BaseModel):
    kind: str


class _Cost(BaseModel):
    params: int
    macs: int


class _Report(BaseModel):
    """The part of report.json that is checked."""

    version: Literal[1]
    files: dict[Annotated[str, StringConstraints(pattern=r"^[^/.][^/]*(/[^/.][^/]*)*$")], str]
    slim: _Cost
    certificate: _Certificate
    gates: list[_Gate]
    sparsity: _Sparsity | None = None
    masks: _Masks | None = None


def _hash_check(path: Path, digest: str | None) -> Check:
    actual = sha256(path) if path.is_file() else "no such file"
    if digest is None:
        return _check(f"hash of {path.name}", False, f"{REPORT} has none")
    detail = actual[:12] if actual == digest else f"{actual[:12]}, not {digest[:12]}"
    return _check(f"hash of {path.name}", actual == digest, detail)


def _check(name: str, ok: bool, detail: str) -> Check:
    return {"name": name, "ok": ok, "detail": detail}
