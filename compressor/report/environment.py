"""Where numbers came from: versions, machine and seed."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from compressor import __version__
from compressor.bench.runner.system_info import cpu_model

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


def environment_record(seed: int) -> dict[str, str | int]:
    """Versions, machine and seed: what it takes to know where numbers came from."""
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
