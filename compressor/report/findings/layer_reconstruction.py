"""What reconstruction did to every layer: held-out errors before and after, and why a fit was refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

from compressor.report.blocks import Block, Fact, Section, Table
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.format import NOTHING, format_significant, printable

if TYPE_CHECKING:
    from compressor.report.run_result import RunResult


class ReconstructedLayer(TypedDict):
    """Errors are squared, relative to the variance of the layer's target, on held-out samples."""

    name: str
    samples: int
    features: int
    ridge: float | None
    error_before: float | None
    error_after: float | None
    accepted: bool
    reason: str
    mask_search: str | None


class ReconstructionRecord(TypedDict):
    """`images`: samples that layers were fitted to and judged by."""

    images: int
    seconds: float
    layers: list[ReconstructedLayer]


class LayerReconstruction(Finding):
    """The evidence of the reconstruction; the certificate is about surgery alone."""

    order = 65

    def record(self, run: RunResult) -> Mapping[str, object]:
        result = run.state.reconstruction
        if result is None:
            return {"reconstruction": None}
        layers = [
            ReconstructedLayer(
                name=layer.name,
                samples=layer.samples,
                features=layer.features,
                ridge=finite(layer.ridge),
                error_before=finite(layer.error_before),
                error_after=finite(layer.error_after),
                accepted=layer.accepted,
                reason=layer.reason,
                mask_search=layer.mask_search,
            )
            for layer in result.layers
        ]
        record = ReconstructionRecord(images=result.images, seconds=result.seconds, layers=layers)
        return {"reconstruction": record}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: ReconstructionRecord | None = report["reconstruction"]
        if record is None:
            return
        accepted = [layer for layer in record["layers"] if layer["accepted"]]
        pairs = [(layer["error_before"], layer["error_after"]) for layer in accepted]
        known = [(before, after) for before, after in pairs if before is not None and after is not None]
        text = f"{len(accepted)} of {len(record['layers'])} layers were fitted to {record['images']:,} samples"
        if known:
            before, after = (sum(values) / len(known) for values in zip(*known, strict=True))
            text += f"; their mean held-out error fell from {before:.1%} to {after:.1%}"
        yield Fact("Reconstruction", text)

    def page(self, report: Report) -> Iterable[Block]:
        yield from self.terminal(report)
        record: ReconstructionRecord | None = report["reconstruction"]
        if record is not None and record["layers"]:
            columns = ("Layer", "Error before", "after", "Ridge", "Result")
            rows = [
                (
                    printable(layer["name"]),
                    _number(layer["error_before"]),
                    _number(layer["error_after"]),
                    _number(layer["ridge"]),
                    "accepted" if layer["accepted"] else printable(layer["reason"]) or "kept",
                )
                for layer in record["layers"]
            ]
            yield Section("Reconstruction by layer", [Table(columns, rows, f"{len(rows)} layers")])


def _number(value: float | None) -> str:
    return NOTHING if value is None else format_significant(value)
