"""Where the numbers come from: versions, machine and seed."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata

from compressor import __version__
from compressor.bench.runner.system_info import cpu_model, cpu_quota, usable_cpus
from compressor.report.blocks import Block, Section, Table
from compressor.report.findings.base import Finding, Report
from compressor.report.run_result import RunResult

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")
OPENMP = re.compile("(OMP|GOMP|KMP|MKL)_")  # variables that decide how many threads compute, and how they wait


class RunEnvironment(Finding):
    """What is needed to reproduce the run."""

    order = 240

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"environment": environment_record(run.recipe.seed)}

    def page(self, report: Report) -> Iterable[Block]:
        rows = [(name, str(value)) for name, value in report["environment"].items()]
        yield Section("Environment", [Table((), rows, facts=True)], half=True)


def environment_record(seed: int) -> dict[str, str | int]:
    """Versions, machine, threads and seed."""
    import torch  # not above: `compress bench` runs without it

    return {
        "compressor": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpus": len(usable_cpus()),
        "cpu_quota": cpu_quota() or "none",
        "threads": torch.get_num_threads(),
        "openmp": ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if OPENMP.match(name))
        or "not set",
        "seed": seed,
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
