"""What models are timed on: samples by name of the input, in the sizes that the run uses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compressor.bench.device.protocol import Job
from compressor.bench.device.session import RunnerSession
from compressor.bench.runner.ort_session import count_batches, make_feed, read_timed_inputs
from compressor.bench.timed_inputs import TimedInput, write_timed_inputs
from compressor.export.onnx_file import validate_onnx

TOKENS = np.arange(35).reshape(5, 7)
FRAMES = np.arange(30, dtype=np.float32).reshape(3, 5, 2)  # time, batch, features


def node(name: str, kind: str, *shape: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, type=f"tensor({kind})", shape=list(shape))


NODES = [
    node("tokens", "int64", "batch", "length"),
    node("frames", "float", "time", "batch", 2),
    node("extra", "float", "batch", "width"),
]


def test_samples_are_used_in_turn_and_free_sizes_are_theirs(tmp_path: Path) -> None:
    path = write_timed_inputs({"tokens": TimedInput(TOKENS), "frames": TimedInput(FRAMES, 1)}, tmp_path)
    assert path is not None
    given, given_dims = read_timed_inputs(str(path))
    assert given_dims == {"tokens": 0, "frames": 1}
    dims = [0, 1, 0]
    assert count_batches(NODES, given, dims, 2) == 3
    first, last = (make_feed(NODES, 2, given, index, dims, {"width": 5}) for index in (0, 2))
    assert np.array_equal(first["tokens"], TOKENS[:2])
    assert np.array_equal(last["tokens"], TOKENS[[4, 0]])
    assert np.array_equal(last["frames"], FRAMES[:, [4, 0]])
    assert last["extra"].shape == (2, 5)
    assert make_feed(NODES, 2, given, 0, dims, {})["extra"].shape == (2, 1)


def test_an_input_without_batch_is_the_same_in_every_feed() -> None:
    graph = [node("nodes", "float", "count", 7), node("edges", "int64", 2, "edges")]
    given = {"nodes": TOKENS.astype(np.float32), "edges": np.zeros((2, 4), np.int64)}
    assert count_batches(graph, given, [None, None], 1) == 1
    feed = make_feed(graph, 1, given, 0, [None, None], {})
    assert np.array_equal(feed["nodes"], TOKENS)
    assert feed["edges"].shape == (2, 4)


def test_without_samples_there_is_no_file(tmp_path: Path) -> None:
    assert write_timed_inputs(None, tmp_path) is None
    assert write_timed_inputs({}, tmp_path) is None


def free_model(path: Path, **metadata: str) -> Path:
    """One operator on an input whose second size the file leaves open."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"], "erf")], "free", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("length", [1, 400])
def test_operators_run_on_the_sizes_of_the_samples(here: RunnerSession, tmp_path: Path, length: int) -> None:
    path = free_model(tmp_path / "free.onnx")
    inputs = write_timed_inputs({"x": TimedInput(np.zeros((2, length), np.float32))}, tmp_path)
    (erf,) = here.profile(path, Job((), window_s=0.01, inputs=inputs))
    assert erf.bytes == 2 * 4 * length  # read and written


def test_without_samples_the_sizes_are_those_of_the_trace(here: RunnerSession, tmp_path: Path) -> None:
    unknown = free_model(tmp_path / "unknown.onnx")
    known = free_model(tmp_path / "known.onnx", free_sizes='{"length": 40}')
    assert validate_onnx(unknown).open_sizes == ("x[1]",)
    assert validate_onnx(known).open_sizes == ()
    sizes = [here.profile(path, Job((), window_s=0.01))[0].bytes for path in (unknown, known)]
    assert sizes == [2 * 4, 2 * 4 * 40]


@pytest.mark.parametrize(
    "metadata",
    [
        {"batch_dims": "NCHW", "free_sizes": "[1]"},
        {"batch_dims": '{"x": 1}', "free_sizes": '{"length": -1}'},
        {"batch_dims": "[0, 1]", "free_sizes": "}"},
    ],
)
def test_metadata_of_another_program_count_as_absent(
    here: RunnerSession, tmp_path: Path, metadata: dict[str, str]
) -> None:
    path = free_model(tmp_path / "foreign.onnx", **metadata)
    assert validate_onnx(path).open_sizes == ("x[1]",)
    assert here.profile(path, Job((), window_s=0.01))[0].bytes == 2 * 4
