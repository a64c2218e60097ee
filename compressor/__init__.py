"""Model-compression converter: a checkpoint and a recipe in, a proven slim ONNX model with measured latency out."""

import importlib
import os
from typing import TYPE_CHECKING

# Official ONNX Runtime builds may send telemetry; the switch only counts before its first import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.2.0"
__all__ = ["Compressed", "RunReport", "__version__", "compress", "load", "plan", "yolo_trainer"]

if TYPE_CHECKING:
    from compressor.api import Compressed, RunReport, compress, plan
    from compressor.models.saved_model import load
    from compressor.models.yolo.yolo_trainer import yolo_trainer

_HOMES = {
    "load": "compressor.models.saved_model",
    "yolo_trainer": "compressor.models.yolo.yolo_trainer",
} | dict.fromkeys(("Compressed", "RunReport", "compress", "plan"), "compressor.api")
"""public name -> its module"""


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that importing the package stays light enough for `--help`."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
