"""Where numbers came from: versions, machine and seed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from compressor import __version__

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


def environment_record(seed: int) -> dict[str, str | int]:
    """Versions, machine and seed: what it takes to know where numbers came from."""
    return {
        "compressor": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "seed": seed,
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    """Model name of the first processor; Linux tells it in /proc only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
