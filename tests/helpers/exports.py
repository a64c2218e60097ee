"""Exports of single modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compressor.core import ExportedModel
from compressor.export.onnx import OnnxExporter


def export_onnx(module: nn.Module, inputs: Sequence[Tensor], path: Path, **options: Any) -> ExportedModel:
    return OnnxExporter(inputs, **options).export(module, path)
