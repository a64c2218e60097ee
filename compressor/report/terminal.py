"""What each command prints for people: compact tables that fit 80 columns and survive a pipe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from compressor.report.bench_result import show_bench
from compressor.report.blocks import Fact
from compressor.report.findings import findings
from compressor.report.inspect_result import show_inspect, show_onnx_inspect
from compressor.report.pareto_result import show_pareto
from compressor.report.plan_result import show_plan
from compressor.report.tables import print_blocks, print_facts, print_heading
from compressor.report.verify_result import show_verify

__all__ = ["show_bench", "show_inspect", "show_onnx_inspect", "show_pareto", "show_plan", "show_report", "show_verify"]


def show_report(report: dict[str, Any], console: Console, folder: Path | None = None) -> None:
    """Print the result of a run on one screen: what is read first, and where the files and the rest are.

    Args:
        report: Report.json.
        console: Where to print.
        folder: The output folder.
    """
    print_heading(console, report["model"], report["steps"], method=report["method"])
    print_blocks(console, (block for finding in findings() if not finding.detail for block in finding.terminal(report)))
    if folder is not None:
        console.print()
        files = f"{folder}: model.onnx is the slim model, report.html has the details (--open shows it)"
        print_facts(console, [Fact("Files", files)])


def report_text(report: dict[str, Any], folder: Path, *, width: int = 100) -> str:
    """Return the result of a run as plain text.

    Args:
        report: Report.json.
        folder: The output folder.
        width: Number of columns.
    """
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        show_report(report, console, folder)
    return capture.get()
