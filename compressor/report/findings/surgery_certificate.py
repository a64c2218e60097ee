"""The proof that surgery changed nothing but the removed channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NotRequired, TypedDict

from compressor.report.blocks import Block, Card, Fact, Notice, Status
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.format import format_error, printable
from compressor.report.run_result import RunResult

MEANING: Mapping[str, str] = {
    "masked-dense-float64": "in float64, right after the removal, the slim model computes what the dense model "
    "computes when no layer reads the removed channels",
    "restricted-dense-float64": "in float64, right after the removal, the slim model computes what the dense model "
    "computes when no layer reads the removed channels and its normalization layers and random draws use the kept "
    "channels only",
    "dropped-blocks-float64": "in float64, the model without the dropped blocks computes what the dense model computes "
    "when these blocks add nothing to their input",
    "reordered-float64": "in float64, the model computes the same with its channels in another order",
    "masked-weights": "every weight has its old value or, where it is masked, is zero; N:M groups keep their pattern",
}
"""Kind of certificate -> what it proves."""


class CertificateRecord(TypedDict):
    """`kind`: the proofs in order, joined by '+'; errors are the largest over the outputs."""

    kind: str
    max_abs_error: float | None
    max_rel_error: float | None
    ok: bool
    tolerance: NotRequired[float]  # largest relative error allowed; earlier versions did not write it


class SurgeryCertificate(Finding):
    """What was proven, and the largest error."""

    order = 60

    def record(self, run: RunResult) -> Mapping[str, object]:
        certificate = run.state.certificate
        assert certificate is not None, "every method proves what it did"
        return {
            "certificate": CertificateRecord(
                kind=certificate.kind,
                max_abs_error=finite(certificate.max_abs_error),
                max_rel_error=finite(certificate.max_rel_error),
                ok=certificate.ok,
                tolerance=certificate.tolerance,
            )
        }

    def terminal(self, report: Report) -> Iterable[Block]:
        certificate: CertificateRecord = report["certificate"]
        meaning = "; ".join(_meaning(kind) for kind in certificate["kind"].split("+"))
        absolute, relative = map(format_error, (certificate["max_abs_error"], certificate["max_rel_error"]))
        status = Status(certificate["ok"], "proven" if certificate["ok"] else "not proven")
        yield Fact("Surgery", f"{meaning}; largest error {absolute}, relative {relative}", status)

    def page(self, report: Report) -> Iterable[Block]:
        ok, error = report["certificate"]["ok"], format_error(report["certificate"]["max_rel_error"])
        note = f"largest relative error {error}"
        yield Card("Can I trust it?", "proven" if ok else "not proven", "the removal is exact", note, ok)
        yield from self.terminal(report)
        if not report["certificate"]["ok"]:
            yield Notice("The surgery could not be proven exact.", severe=True)


def _meaning(kind: str) -> str:
    """What a kind proves, in float64 or float32, perhaps with equal choices."""
    base, choices, _ = kind.partition("-equal-choices")
    meaning = MEANING.get(base.replace("float32", "float64"), printable(base))
    if base.endswith("float32"):
        meaning = meaning.replace("float64", "float32")
    return f"{meaning}, where both choose the same by value" if choices else meaning
