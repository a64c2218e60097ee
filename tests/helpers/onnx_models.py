"""ONNX files of small networks, and of single nodes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compressor.surgery.analysis import analyze


def export(module: nn.Module, shape: tuple[int, ...], path: Path, *, opset: int = 17, dynamic: bool = True) -> Path:
    """Export by TorchScript, which takes a tenth of a second."""
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module.eval(), (torch.randn(2 if dynamic else 1, *shape),), path, dynamo=False, opset_version=opset,
            input_names=["pixels"], output_names=["logits"],
            dynamic_axes={"pixels": {0: "n"}, "logits": {0: "n"}} if dynamic else None,
        )  # fmt: skip
    return path


def prunable(module: nn.Module, *inputs: Tensor) -> list[int]:
    groups = analyze(module, *inputs, name="it").groups
    return sorted(group.size for group in groups if group.frozen is None)


def model_of(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A graph x (n, 4) -> y with these nodes."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)])
