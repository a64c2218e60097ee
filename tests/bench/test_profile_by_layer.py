"""Operators gathered by layer: names, copies, sums, and the faster of two passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compressor.bench.device.protocol import Job, NodeTime
from compressor.bench.device.session import RunnerSession
from compressor.bench.profile_by_layer import fastest, layers_of, plain_name, rows_by_layer, time_by_layer
from compressor.bench.runner.profile import parse_nodes
from compressor.core import LAYOUT_COPIES


def network(path: Path, channels: int) -> Path:
    """conv1, bn, relu, conv2 with a sum, a pool and a product, under PyTorch's names."""

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.full(shape, 0.01, np.float32), name)

    weights = [weight("stem.conv1.weight", channels, 16, 3, 3), weight("body.conv2.weight", 16, channels, 3, 3)]
    weights += [weight("head.weight", 16, 10), *(weight(f"bn.{part}", channels) for part in "abcd")]
    made = [
        helper.make_node("Conv", ["input", "stem.conv1.weight"], ["conv"], "node_conv", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["conv", *(f"bn.{part}" for part in "abcd")], ["bn"], "node_bn"),
        helper.make_node("Relu", ["bn"], ["relu"], "node_relu"),
        helper.make_node("Conv", ["relu", "body.conv2.weight"], ["conv_1"], "node_conv_1", pads=[1] * 4),
        helper.make_node("Add", ["conv_1", "input"], ["add"], "node_add"),
        helper.make_node("GlobalAveragePool", ["add"], ["pool"], "node_pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "node_flat"),
        helper.make_node("MatMul", ["flat", "head.weight"], ["output"], "node_head"),
    ]
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 16, 32, 32]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 10]),
    ]
    graph = helper.make_graph(made, "x", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_layers_by_their_weight(tmp_path: Path) -> None:
    found = layers_of(network(tmp_path / "a.onnx", 8))
    assert {name: found.get(name) for name in ("node_conv", "relu", "node_conv_1", "add", "node_head", "pool")} == {
        "node_conv": "stem.conv1",
        "relu": "stem.conv1",
        "node_conv_1": "body.conv2",
        "add": "body.conv2",
        "node_head": "head",
        "pool": None,
    }


def test_names_the_optimiser_has_lengthened() -> None:
    assert [*map(plain_name, ("relu_1_nchwc", "ReorderOutput_token_14", "node_add"))] == [
        "relu_1",
        "ReorderOutput",
        "node_add",
    ]


def node(name: str, op: str, us: float, octets: int = 100) -> NodeTime:
    return NodeTime(name, op, "CPUExecutionProvider", octets, us)


def test_gathered_by_layer_copies_and_operator() -> None:
    found = rows_by_layer(
        [
            node("relu_nchwc", "Conv", 7.0),
            node("ReorderInput", "ReorderInput", 1.0),
            node("t", "Transpose", 2.0, 50),
            node("pool_1", "MaxPool", 3.0),
            node("pool_2", "MaxPool", 4.0),
            node("node_add", "Add", 5.0),  # was not fused
        ],
        {"relu": "stem", "node_add": "stem"},
    )
    assert {name: (row.op, row.us, row.bytes) for name, row in found.items()} == {
        "stem": ("Conv", 7.0, 100),
        LAYOUT_COPIES: ("ReorderInput", 3.0, 150),
        "all MaxPool": ("MaxPool", 7.0, 200),
        "all Add": ("Add", 5.0, 100),
    }


def test_the_faster_pass_counts_for_each_operator() -> None:
    slow, fast = [node("a", "Conv", 5.0), node("b", "Conv", 2.0)], [node("a", "Conv", 4.0), node("b", "Conv", 9.0)]
    assert [(each.name, each.us) for each in fastest([slow, fast])] == [("a", 4.0), ("b", 2.0)]


def test_events_of_the_profiler_become_nodes() -> None:
    """Three runs of which the first warms up; b runs twice in each; by hand: a 4 of (4, 6), b 3 + 1 of (4, 8)."""
    told = {"op_name": "Conv", "provider": "P", "parameter_size": "5", "activation_size": "6", "output_size": "7"}
    spans = [("a", 100), ("b", 50), ("b", 50), ("a", 4), ("b", 3), ("b", 1), ("a", 6), ("b", 4), ("b", 4)]
    events: list[dict[str, object]] = [{"cat": "Session", "name": "model_run", "dur": 999}]
    events += [{"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": told} for name, us in spans]
    found = parse_nodes(events, runs=3, warm=1)
    assert [(each["name"], each["us"], each["bytes"]) for each in found] == [("a", 4.0, 18), ("b", 4.0, 18)]


def test_two_models_on_a_device(here: RunnerSession, tmp_path: Path) -> None:
    dense, slim = network(tmp_path / "dense.onnx", 128), network(tmp_path / "slim.onnx", 16)
    rows = {row.name: row for row in time_by_layer(here, dense, slim, Job((), window_s=0.05))}
    assert {"stem.conv1", "body.conv2"} <= rows.keys()
    for name in ("stem.conv1", "body.conv2"):
        before, after = rows[name].before_us, rows[name].after_us
        assert before is not None
        assert after is not None
        assert before > 2 * after  # 8 by the work alone
        assert rows[name].before_bytes > rows[name].after_bytes > 0
