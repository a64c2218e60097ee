"""The rule read off ONNX files: from our exporter, and made by hand as others write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.core import NMPattern
from compressor.sparsity.onnx_check import Initializer, inspect_initializers
from compressor.sparsity.runtimes import RUNTIMES

TWO_FOUR = NMPattern(2, 4)
GOOD = np.tile(np.array([0, 5, 0, 7, 1, 2, 0, 0], np.float32), (8, 2))  # (K, C) = (8, 16)
BAD = np.where(np.arange(16) == 2, np.float32(3), GOOD)  # 3 of the first 4


def write(path: Path, nodes: list[onnx.NodeProto], **tensors: np.ndarray) -> Path:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), path)
    return path


def look(path: Path) -> tuple[Initializer, ...]:
    return inspect_initializers(path, RUNTIMES["tensorrt-ampere"], TWO_FOUR)


@pytest.mark.parametrize(("weight", "holds"), [(GOOD, True), (BAD, False)])
def test_as_operators_read_them(tmp_path: Path, weight: np.ndarray, holds: bool) -> None:
    """Conv (K, C, 1, 1); Gemm with transB (K, C) and without (C, K); MatMul (C, K), or (K, C) behind a Transpose."""
    path = write(
        tmp_path / "m.onnx",
        [
            helper.make_node("Conv", ["x", "conv"], ["a"]),
            helper.make_node("Gemm", ["a", "gemm_t"], ["b"], transB=1),
            helper.make_node("Gemm", ["b", "gemm"], ["c"]),
            helper.make_node("MatMul", ["c", "product"], ["d"]),
            helper.make_node("Transpose", ["turned"], ["e"], perm=[1, 0]),
            helper.make_node("MatMul", ["d", "e"], ["f"]),
            helper.make_node("Constant", [], ["inline"], value=numpy_helper.from_array(weight.T.copy())),
            helper.make_node("MatMul", ["f", "inline"], ["y"]),
        ],
        conv=weight[:, :, None, None],
        gemm_t=weight,
        gemm=weight.T.copy(),
        product=weight.T.copy(),
        turned=weight,
        unread=weight,
    )
    found = {each.name: each for each in look(path)}
    assert list(found) == ["conv", "gemm_t", "gemm", "product", "turned", "inline"]
    assert {each.shape[:2] for each in found.values()} == {(8, 16)}
    assert {each.holds for each in found.values()} == {holds}
    assert {each.reason for each in found.values()} == {None}
    assert found["conv"].zeros == np.mean(weight == 0)


@pytest.mark.parametrize("zero", [0, 3])
def test_quantised_weights_around_their_zero_point(tmp_path: Path, zero: int) -> None:
    """A zero is the zero point: the same integers hold the rule around 0 and break it around 3."""
    integers = GOOD.astype(np.int8)[:, :, None, None]
    path = write(
        tmp_path / "m.onnx",
        [
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["d"], axis=0),
            helper.make_node("Conv", ["x", "d"], ["y"]),
        ],
        w=integers,
        scale=np.full(8, 0.1, np.float32),
        zero=np.full(8, zero, np.int8),
    )
    (only,) = look(path)
    assert only.holds == (zero == 0)


def test_weights_in_branches_and_shared_ones(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "outer"], ["then"])],
        "b", [], [helper.make_tensor_value_info("then", TensorProto.FLOAT, None)],
    )  # fmt: skip
    path = write(
        tmp_path / "m.onnx",
        [
            helper.make_node("If", ["which"], ["a"], then_branch=branch, else_branch=branch),
            helper.make_node("MatMul", ["a", "outer"], ["y"]),
        ],
        outer=GOOD.T.copy(),
        which=np.array(True),
    )
    assert [(each.name, each.holds) for each in look(path)] == [("outer", True)]


def test_what_no_runtime_could_use_says_why(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        [helper.make_node("Conv", ["x", "stem"], ["a"]), helper.make_node("MatMul", ["a", "x"], ["y"])],
        stem=np.ones((8, 3, 3, 3), np.float32),
    )
    (only,) = look(path)
    assert (only.holds, only.reason) == (False, "3 input channels, fewer than a group of 4")
