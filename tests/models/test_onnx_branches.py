"""If nodes: the branch that runs at the sizes of the inputs takes the place of the node; others are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from failures import raises_error
from onnx import GraphProto, TensorProto, helper, numpy_helper

from compressor import cli
from compressor.errors import ModelError
from compressor.models.source import load_model

NODE = helper.make_node


def branch(*nodes: onnx.NodeProto, output: str, weights: dict[str, np.ndarray] | None = None) -> GraphProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    return helper.make_graph(list(nodes), "branch", [], [helper.make_empty_tensor_value_info(output)], tensors)


def file_of(path: Path, *nodes: onnx.NodeProto, size: int = 6, **weights: np.ndarray) -> Path:
    """A graph x (n, size) -> y with these nodes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size])
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def wide_or_not(name: str = "choice") -> list[onnx.NodeProto]:
    """Two layers, the second of which is in the branch that runs where x has six columns; the names repeat."""
    random = np.random.default_rng(0)
    inner = NODE(
        "If", ["is_six"], ["h"], then_branch=branch(NODE("Relu", ["h0"], ["h"]), output="h"),
        else_branch=branch(NODE("Neg", ["h0"], ["h"]), output="h"),
    )  # fmt: skip
    weights = {"second": random.normal(size=(16, 4)).astype(np.float32)}
    then = branch(inner, NODE("MatMul", ["h", "second"], ["out"]), output="out", weights=weights)
    other = branch(NODE("Identity", ["x"], ["out"]), output="out")
    return [
        NODE("Shape", ["x"], ["shape"]),
        NODE("Gather", ["shape", "one"], ["columns"]),
        NODE("Equal", ["columns", "six"], ["is_six"]),
        NODE("MatMul", ["x", "first"], ["h0"]),
        NODE("If", ["is_six"], ["chosen"], name, then_branch=then, else_branch=other),
        NODE("If", ["is_six"], ["y"], "", then_branch=branch(NODE("Tanh", ["chosen"], ["out"]), output="out"),
             else_branch=branch(NODE("Identity", ["chosen"], ["out"]), output="out")),
    ]  # fmt: skip


@pytest.fixture
def given(tmp_path: Path) -> Path:
    first = np.random.default_rng(1).normal(size=(6, 16)).astype(np.float32)
    one, six = np.array(1, np.int64), np.array(6, np.int64)
    return file_of(tmp_path / "m.onnx", *wide_or_not(), first=first, one=one, six=six)


def test_branches_that_sizes_decide_take_the_place_of_their_nodes(given: Path) -> None:
    loaded = load_model(str(given))
    assert len(loaded.spec.arguments["branches"]) == 3  # type: ignore[arg-type]
    by_shape = {tuple(parameter.shape): parameter for parameter in loaded.module.parameters()}
    x = torch.randn(3, 6)
    expected = torch.tanh((x @ by_shape[16, 6].T).relu() @ by_shape[4, 16].T)
    assert torch.allclose(loaded.module(x), expected, atol=1e-5)


def test_the_slim_file_has_the_branch_and_can_be_pruned_again(given: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    settings = ["-r", "l1", "--set", "prune.round_to=1", "--target", "none", "-q"]
    assert cli.run([str(given), *settings, "--set", "prune.target={macs: 50%}", "-o", str(out)]) == 0
    assert (out / "dense.onnx").read_bytes() == given.read_bytes()
    slim = onnx.load(out / "model.onnx")
    assert not [node for node in slim.graph.node if node.op_type == "If"]
    given.unlink()
    assert cli.run(["verify", str(out), "-q"]) == 0
    assert cli.run([str(out), *settings, "--set", "prune.target={macs: 25%}", "-o", str(again)]) == 0
    session = onnxruntime.InferenceSession(again / "model.onnx")
    assert session.run(None, {"x": np.zeros((2, 6), np.float32)})[0].shape == (2, 4)


def test_a_branch_that_values_decide_is_refused_with_the_input(tmp_path: Path) -> None:
    relu, negated = (branch(NODE(op, ["x"], ["out"]), output="out") for op in ("Relu", "Neg"))
    total, compared = NODE("ReduceSum", ["x"], ["total"], keepdims=0), NODE("Greater", ["total", "zero"], ["positive"])
    node = NODE("If", ["positive"], ["y"], "which", then_branch=relu, else_branch=negated)
    path = file_of(tmp_path / "m.onnx", total, compared, node, zero=np.array(0, np.float32))
    with raises_error(ModelError, "onnx-model/unsupported-operator", "which", "x"):
        load_model(str(path))


def test_a_branch_may_read_a_value_that_comes_later_in_the_file(tmp_path: Path) -> None:
    chosen = branch(NODE("Neg", ["later"], ["out"]), output="out")
    node = NODE("If", ["yes"], ["y"], "early", then_branch=chosen, else_branch=chosen)
    path = file_of(tmp_path / "m.onnx", node, NODE("Relu", ["x"], ["later"]), yes=np.array(True))
    assert torch.equal(load_model(str(path)).module(torch.ones(1, 6)), -torch.ones(1, 6))


@pytest.mark.parametrize("fault", ["absent", "outputs"])
def test_an_if_without_its_branch_is_refused(fault: str, tmp_path: Path) -> None:
    relu = branch(NODE("Relu", ["x"], ["out"]), output="out")
    other = {} if fault == "absent" else {"else_branch": relu}
    node = NODE("If", ["no"], ["y"] if fault == "absent" else ["y", "z"], "which", then_branch=relu, **other)
    path = file_of(tmp_path / "m.onnx", node, no=np.array(False))
    with raises_error(ModelError, "onnx-model/inconsistent", "which"):
        load_model(str(path))


def test_more_ifs_than_a_network_has_are_refused(tmp_path: Path) -> None:
    inner = branch(NODE("Relu", ["x"], ["out"]), output="out")
    for _ in range(11):
        inner = branch(NODE("If", ["yes"], ["out"], then_branch=inner, else_branch=inner), output="out")
    node = NODE("If", ["yes"], ["y"], "which", then_branch=inner, else_branch=inner)
    with raises_error(ModelError, "onnx-model/too-many-ifs", "4,095"):
        load_model(str(file_of(tmp_path / "m.onnx", node, yes=np.array(True))))
