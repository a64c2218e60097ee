"""Small ONNX files made by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Make = Callable[..., Path]


@pytest.fixture
def linear(tmp_path: Path) -> Make:
    """A file that multiplies (batch, width) by a matrix `repeats` times."""

    def make(name: str, *, width: int = 64, repeats: int = 1, batch: int | str = "batch", value: float = 0.01) -> Path:
        weight = np.full((width, width), value, np.float32)
        steps = ["input", *(f"step{place}" for place in range(1, repeats)), "output"]
        nodes = [helper.make_node("MatMul", [a, "weight"], [b]) for a, b in pairwise(steps)]
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [batch, width]) for end in ("input", "output")]
        graph = helper.make_graph(nodes, name, ends[:1], ends[1:], [numpy_helper.from_array(weight, "weight")])
        path = tmp_path / name
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return make
