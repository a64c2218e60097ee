"""Whether the library that the model comes from can load the slim model by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from compressor.report.blocks import Block, Fact
from compressor.report.findings.base import Finding, Report
from compressor.report.run_result import RunResult


class LibraryFilesFinding(Finding):
    """The files for the library, and the call that loads them; null for models of no library."""

    order = 235

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"library": None if run.library is None else asdict(run.library)}

    def terminal(self, report: Report) -> Iterable[Block]:
        library = report.get("library")
        if library is not None:
            yield Fact("Loads with", describe_library(library))


def describe_library(library: Mapping[str, str | None]) -> str:
    """'BertModel.from_pretrained(...)', or 'compressor.load(FOLDER), not transformers alone: ...'."""
    if library["reason"] is None:
        return str(library["call"])
    return f"{library['call']}, not {library['library']} alone: {library['reason']}"
