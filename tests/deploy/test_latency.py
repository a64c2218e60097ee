"""The protocol end to end on tiny models, and what it says of models and machines that won't do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from compressor.deploy.worker import Request
from onnx import TensorProto, helper

from compressor.deploy import environment, latency, target, worker
from compressor.deploy.latency import compare, rounds_for
from compressor.deploy.target import Local, open_target
from compressor.errors import CompressorError, DeviceUnavailable, ModelError, RecipeError, VerificationFailed

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_SECONDS", 0.02)


def quiet(_name: str, _fields: Mapping[str, object]) -> None:
    pass


def test_less_work_is_faster(linear: Make) -> None:
    events: list[Mapping[str, object]] = []
    a, b = linear("a.onnx", width=512, repeats=12), linear("b.onnx", width=512, repeats=4)
    found = compare(a, b, seconds=0.3, emit=lambda _name, fields: events.append(fields))
    assert found.b is not None
    assert found.ratio is not None
    assert found.ratio_ci95 is not None
    assert 1.8 < found.ratio < 4.5  # 3 by the work alone
    assert found.ratio_ci95[0] <= found.ratio <= found.ratio_ci95[1]
    assert found.verdict.startswith(("faster", "unstable"))  # the machine may be too busy to say, never the opposite
    assert found.stable == found.verdict.startswith("faster")
    assert found.control is not None
    assert 0.5 < found.control < 2
    assert [event["arm"] for event in events[:6]] == ["a", "b", "control", "control", "b", "a"]
    assert len(events) == 18
    assert found.a.n == len(found.a.samples) >= 6 * worker.MIN_RUNS
    assert found.a.ci95[0] <= found.a.p50 <= found.a.ci95[1]
    assert found.a.cold_start_ms > 0
    assert (found.target, found.provider, found.threads, found.batch) == ("local", "CPUExecutionProvider", 1, 1)
    assert found.runtime.startswith("onnxruntime ")
    assert found.environment["telemetry"] == "off"
    assert {"cpu", "clock", "sha256_a", "sha256_b", "lowest_cpu_share"} <= found.environment.keys()


def test_one_model_with_weights_beside_it_and_real_inputs(linear: Make, tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save(onnx.load(linear("a.onnx")), path, save_as_external_data=True, location="big.data", size_threshold=0)
    found = compare(path, None, batch=3, seconds=0.05, inputs=np.ones((2, 64), np.float32), emit=quiet)
    assert (found.b, found.ratio, found.ratio_ci95) == (None, None, None)
    assert found.control is not None
    assert found.verdict.split(":")[0] in ("stable", "unstable")
    assert found.environment["inputs"] == "real"


def test_worker_stands_alone(linear: Make) -> None:
    code = f"import runpy, sys; runpy.run_path({worker.__file__!r}); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "compressor", "onnx", "scipy"} & set(json.loads(done.stdout.replace("'", '"')))


def serialized(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def external(tmp_path: Path, where: str) -> Path:
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[64, 64])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=where)
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, 64]) for end in ("input", "output")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["output"])], "x", ends[:1], ends[1:], []
    )
    graph.initializer.append(tensor)
    path = tmp_path / "folder" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(serialized(graph))
    return path


@pytest.mark.parametrize("where", ["../secret", "/etc/hostname", "", "a/../../secret", "link"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(64 * 64 * 4))
    path = external(tmp_path, where)
    (path.parent / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="weights outside the model's folder"):
        compare(path, None, emit=quiet)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights missing: .*no file 'gone\.data' beside it"):
        compare(external(tmp_path, "gone.data"), None, emit=quiet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not an ONNX model: .*: an empty file"),
        (b"PK\x03\x04 not a model at all", "not an ONNX model"),
        (b"\x00" * 4096, "not an ONNX model"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        compare(path, None, emit=quiet)
    assert "\n" not in str(caught.value)


def test_truncated_model(linear: Make, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(linear("a.onnx").read_bytes()[:-5000])
    with pytest.raises(ModelError, match="not an ONNX model"):
        compare(path, None, emit=quiet)


def test_operator_the_runtime_does_not_know(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1]) for end in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Nonsense", ["input"], ["output"])], "x", ends[:1], ends[1:])
    path = tmp_path / "odd.onnx"
    path.write_bytes(serialized(graph))
    with pytest.raises(ModelError, match=r"ONNX Runtime can load: .*odd\.onnx: .*Nonsense"):
        compare(path, None, emit=quiet)


def test_nan_gets_no_number(linear: Make) -> None:
    with pytest.raises(VerificationFailed, match="NaN"):
        compare(linear("nan.onnx", value=float("nan")), None, emit=quiet)


def test_batch_the_model_does_not_take(linear: Make) -> None:
    with pytest.raises(ModelError, match="fixed at batch 8, not 1"):
        compare(linear("fixed.onnx", batch=8), None, emit=quiet)


def test_free_dimensions_that_do_not_fit_are_shown(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", "width"]) for end in ("input", "output")]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [8, 8], [0.0] * 64)
    graph = helper.make_graph([helper.make_node("MatMul", ["input", "weight"], ["output"])], "x", ends[:1], ends[1:])
    graph.initializer.append(weight)
    path = tmp_path / "free.onnx"
    path.write_bytes(serialized(graph))
    with pytest.raises(ModelError, match="does not run"):
        compare(path, None, emit=quiet)


def test_integer_inputs_are_made_up(tmp_path: Path) -> None:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])
    out = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    table = helper.make_tensor("table", TensorProto.FLOAT, [2, 4], [0.0] * 8)
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["output"])], "x", [ids], [out], [table])
    path = tmp_path / "ids.onnx"
    path.write_bytes(serialized(graph))
    reply = Local().ask({**REQUEST, "models": [str(path)], "batch": 2}, ["ids"], 60.0)
    assert len(reply["timings"][0]["wall_ns"][0]) == worker.MIN_RUNS


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"threads": 4096}, RecipeError, "at most"),
        ({"threads": 0}, RecipeError, "above 0"),
        ({"batch": -1}, RecipeError, "above 0"),
        ({"seconds": float("nan")}, RecipeError, "above 0"),
        ({"target": "jetson"}, DeviceUnavailable, "choose local or none"),
        ({"target": "none"}, RecipeError, "choose local"),
    ],
)
def test_arguments_out_of_range(
    linear: Make, arguments: dict[str, object], error: type[CompressorError], message: str
) -> None:
    with pytest.raises(error, match=message):
        compare(linear("a.onnx"), None, emit=quiet, **arguments)  # type: ignore[arg-type]


REQUEST = Request(models=["x"], threads=1, batch=1, cpus=[], inputs=None, warm_s=0.0, window_s=0.0, windows=1)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import time; time.sleep(60)", "no answer within"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
        ("print('hello')", "ended with 0"),
        ("print('[1, 2]')", "ended with 0"),
        ("raise MemoryError('too big')", "MemoryError: too big"),
        ('print(\'{"kind": "runtime", "model": 0, "message": "no onnxruntime"}\')', "no onnxruntime"),
    ],
)
def test_a_worker_that_fails_is_an_unavailable_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    fake = tmp_path / "worker.py"
    fake.write_text(script)
    monkeypatch.setattr(target.worker, "__file__", str(fake))
    with pytest.raises(DeviceUnavailable, match=message):
        Local().ask(REQUEST, ["model"], timeout=2.0)


def test_targets_by_name() -> None:
    assert isinstance(open_target("local"), Local)
    assert open_target("none") is None


@pytest.mark.parametrize(("seconds", "rounds"), [(0.1, 6), (1, 6), (3, 6), (5, 10), (6, 12), (60, 12)])
def test_more_seconds_are_more_blocks_first(seconds: float, rounds: int) -> None:
    assert rounds_for(seconds) == rounds


def test_pins_to_cpus_it_may_use() -> None:
    assert set(environment.quietest_cpus(1, look=0.01)) <= set(environment.usable_cpus())
    assert environment.cpu_model()


def test_clock_is_cpu_time_when_others_took_the_cpu(linear: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(_self: Local, request: Request, _labels: list[str], _timeout: float) -> worker.Reply:
        wall, cpu = [8_000_000] * 5, [2_000_000 if "b.onnx" in request["models"][0] else 4_000_000] * 5
        timing = worker.Timing(session_ms=1.0, first_run_ms=1.0, warm=True, wall_ns=[wall], cpu_ns=[cpu])
        return worker.Reply(timings=[timing], runtime="onnxruntime 1", provider="CPUExecutionProvider")

    monkeypatch.setattr(Local, "ask", ask)
    found = compare(linear("a.onnx"), linear("b.onnx"), emit=quiet)
    assert found.ratio == pytest.approx(2.0)
    assert found.a.p50 == pytest.approx(4.0)
    assert found.environment["clock"] == "CPU time, for other processes took up to 75% of the CPU"
    if len(environment.usable_cpus()) > 1:  # CPU time of one thread says nothing about two
        assert compare(linear("a.onnx"), linear("b.onnx"), threads=2, emit=quiet).a.p50 == pytest.approx(8.0)
