"""Model-compression converter: a checkpoint and a recipe in, a proven slim ONNX model with measured latency out."""

import os
from typing import TYPE_CHECKING

# Official ONNX Runtime builds may send telemetry; the switch only counts before its first import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from compressor.models.saved_model import load


def __getattr__(name: str) -> object:
    """Load `load` on first use, so that importing the package stays light enough for `--help`."""
    if name == "load":
        from compressor.models.saved_model import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
