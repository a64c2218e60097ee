"""The result of `compress verify`: every check of an output folder."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console

from compressor.report.blocks import Fact, Status
from compressor.report.findings.gate_results import Gate
from compressor.report.tables import print_facts, print_heading


class Check(TypedDict):
    """`detail`: what was compared or found."""

    name: str
    ok: bool
    detail: str


class Verify(TypedDict):
    """`compress verify`. `checks` include the gates; `proven`: every check that is no gate holds."""

    folder: str
    checks: list[Check]
    proven: bool
    gates: list[Gate]
    ok: bool


def show_verify(result: Verify, console: Console) -> None:
    """Print each check of an output folder, and whether all of them hold.

    Args:
        result: The result.
        console: Where to print.
    """
    print_heading(console, result["folder"])
    checks = result["checks"]
    print_facts(
        console,
        (
            Fact(check["name"], check["detail"], Status(check["ok"], "ok" if check["ok"] else "failed"))
            for check in checks
        ),
    )
    failed = sum(not check["ok"] for check in checks)
    total = f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks hold"
    console.print()
    print_facts(console, [Fact("Result", total, Status(result["ok"], "verified" if result["ok"] else "not verified"))])
