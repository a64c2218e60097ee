"""An ONNX Runtime session for outputs, not for times: as many threads as torch has, which sleep while they wait."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch


def cpu_session(path: Path) -> onnxruntime.InferenceSession:
    """Load a file on this machine's CPU. ONNX Runtime may raise anything for a file that it cannot run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions; without this they are printed as well
    # ONNX Runtime's own number is that of all cores, also where a control group grants fewer.
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
