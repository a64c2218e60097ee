"""Where the numbers come from: versions, machine and seed."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata

from compressor import __version__
from compressor.bench.runner.system_info import cpu_model
from compressor.report.blocks import Block, Section, Table
from compressor.report.findings.base import Finding, Report
from compressor.report.run_result import RunResult

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


class RunEnvironment(Finding):
    """What is needed to reproduce the run."""

    order = 240

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"environment": environment_record(run.recipe.seed)}

    def page(self, report: Report) -> Iterable[Block]:
        rows = [(name, str(value)) for name, value in report["environment"].items()]
        yield Section("Environment", [Table((), rows, facts=True)], half=True)


def environment_record(seed: int) -> dict[str, str | int]:
    """Versions, machine and seed."""
    return {
        "compressor": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "seed": seed,
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
