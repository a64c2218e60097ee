"""The facts that a run reports, one a file. report.json, the terminal and the page are made by looping over them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from compressor.report.findings.base import Finding, Report
from compressor.report.run_result import RunResult

__all__ = ["Finding", "Report", "build_report", "findings"]


@cache
def findings() -> tuple[Finding, ...]:
    """Every finding of this package, in its order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted((kind() for kind in Finding.__subclasses__()), key=lambda finding: finding.order))


def build_report(run: RunResult) -> Report:
    """Return report.json for `run`: the records of all findings, merged.

    Raises:
        VerificationFailed: An ONNX file does not hold the zeros that the module holds.
    """
    report: Report = {}
    for finding in findings():
        _merge(report, finding.record(run), "")
    return report


def _merge(report: Report, record: Mapping[str, object], place: str) -> None:
    """Add `record` to `report`, object by object; no two findings may write the same value."""
    for key, value in record.items():
        if key not in report:
            report[key] = dict(value) if isinstance(value, Mapping) else value
        elif isinstance(report[key], dict) and isinstance(value, Mapping):
            _merge(report[key], value, f"{place}{key}.")
        else:
            raise ValueError(f"two findings write {place}{key}")
