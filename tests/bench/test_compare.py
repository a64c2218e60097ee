"""The protocol end to end on tiny models, and what it says of models and machines that won't do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from failures import raises_error
from onnx import TensorProto, helper

from compressor.bench.compare import compare_latency
from compressor.bench.device.device import Device
from compressor.bench.device.protocol import DeviceState, Job, Timing
from compressor.bench.device.session import RunnerSession
from compressor.bench.interleaved import BUDGET, LEAST_ROUNDS, rounds_within
from compressor.bench.runner import timing
from compressor.bench.timed_inputs import TimedInput
from compressor.core import Comparison, Verdict
from compressor.errors import ModelError, RecipeError, VerificationFailed

Make = Callable[..., Path]


def quiet(_name: str, _fields: Mapping[str, object]) -> None:
    pass


@pytest.mark.usefixtures("brief")
def test_less_work_is_faster(here: RunnerSession, linear: Make) -> None:
    events: list[Mapping[str, object]] = []
    a, b = linear("a.onnx", width=512, repeats=12), linear("b.onnx", width=512, repeats=4)
    found = compare_latency(here, a, b, seconds=0.3, emit=lambda _name, fields: events.append(fields))
    assert found.b is not None
    assert found.ratio is not None
    assert found.ratio_ci95 is not None
    assert 1.8 < found.ratio < 4.5  # 3 by the work alone
    assert found.ratio_ci95[0] <= found.ratio <= found.ratio_ci95[1]
    assert found.verdict.kind in ("faster", "unstable")  # the machine may be too busy to say, never the opposite
    assert found.stable == (found.verdict.kind == "faster")
    assert found.control is not None
    assert 0.5 < found.control < 2
    assert [event["arm"] for event in events[:6]] == ["a", "b", "control", "control", "b", "a"]
    assert len(events) == 6
    assert found.a.n == len(found.a.samples) >= 2 * timing.MIN_RUNS
    assert found.a.ci95[0] <= found.a.p50 <= found.a.ci95[1]
    assert found.a.cold_start_ms > 0
    assert (found.target, found.provider, found.threads, found.batch) == ("local", "CPUExecutionProvider", 1, 1)
    assert found.runtime.startswith("onnxruntime ")
    assert found.environment["telemetry"] == "off"
    assert {"cpu", "clock", "sha256_a", "sha256_b", "lowest_cpu_share"} <= found.environment.keys()


@pytest.mark.usefixtures("brief")
def test_one_model_with_weights_beside_it_and_real_inputs(here: RunnerSession, linear: Make, tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save(onnx.load(linear("a.onnx")), path, save_as_external_data=True, location="big.data", size_threshold=0)
    inputs = {"x": TimedInput(np.ones((2, 64), np.float32))}
    found = compare_latency(here, path, None, batch=3, seconds=0.05, inputs=inputs, emit=quiet)
    assert (found.b, found.ratio, found.ratio_ci95) == (None, None, None)
    assert found.control is not None
    assert found.verdict.kind in ("stable", "unstable")
    assert found.environment["inputs"] == "real"


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
def test_weights_outside_the_folder_are_refused(here: RunnerSession, tmp_path: Path, where: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(64 * 64 * 4))
    path = external(tmp_path, where)
    (path.parent / "link").symlink_to(tmp_path / "secret")
    with raises_error(ModelError, "onnx-model/weights-outside-folder", str(path)):
        compare_latency(here, path, None, emit=quiet)


def test_missing_weights_are_named(here: RunnerSession, tmp_path: Path) -> None:
    with raises_error(ModelError, "onnx-model/weights-missing", "'gone.data'"):
        compare_latency(here, external(tmp_path, "gone.data"), None, emit=quiet)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "onnx-model/no-such-file"),
        (b"", "onnx-model/empty"),
        (b"PK\x03\x04 not a model at all", "onnx-model/not-onnx"),
        (b"\x00" * 4096, "onnx-model/not-onnx"),
    ],
)
def test_files_that_are_no_models(here: RunnerSession, tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with raises_error(ModelError, code, "bad.onnx") as caught:
        compare_latency(here, path, None, emit=quiet)
    assert "\n" not in str(caught.value)


def test_truncated_model(here: RunnerSession, linear: Make, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(linear("a.onnx").read_bytes()[:-5000])
    with raises_error(ModelError, "onnx-model/not-onnx", "cut.onnx"):
        compare_latency(here, path, None, emit=quiet)


def test_operator_the_runtime_does_not_know(here: RunnerSession, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1]) for end in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Nonsense", ["input"], ["output"])], "x", ends[:1], ends[1:])
    path = tmp_path / "odd.onnx"
    path.write_bytes(serialized(graph))
    with raises_error(ModelError, "onnx-model/not-loadable", "odd.onnx", "Nonsense"):
        compare_latency(here, path, None, emit=quiet)


def test_nan_gets_no_number(here: RunnerSession, linear: Make) -> None:
    with raises_error(VerificationFailed, "wrong-output/device-differs", "NaN"):
        compare_latency(here, linear("nan.onnx", value=float("nan")), None, emit=quiet)


def test_batch_the_model_does_not_take(here: RunnerSession, linear: Make) -> None:
    with raises_error(ModelError, "onnx-model/no-inputs", "batch 8", "1"):
        compare_latency(here, linear("fixed.onnx", batch=8), None, emit=quiet)


def test_free_dimensions_that_do_not_fit_are_shown(here: RunnerSession, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", "width"]) for end in ("input", "output")]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [8, 8], [0.0] * 64)
    graph = helper.make_graph([helper.make_node("MatMul", ["input", "weight"], ["output"])], "x", ends[:1], ends[1:])
    graph.initializer.append(weight)
    path = tmp_path / "free.onnx"
    path.write_bytes(serialized(graph))
    with raises_error(ModelError, "onnx-model/does-not-run", "free.onnx"):
        compare_latency(here, path, None, emit=quiet)


@pytest.mark.parametrize("arguments", [{"batch": -1}, {"seconds": float("nan")}, {"seconds": 0.0}])
def test_arguments_out_of_range(here: RunnerSession, linear: Make, arguments: dict[str, object]) -> None:
    with raises_error(RecipeError, "bench/not-positive"):
        compare_latency(here, linear("a.onnx"), None, emit=quiet, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seconds", "rounds"), [(0.1, 6), (1, 6), (3, 15), (5, 25), (6, 30), (60, 30)])
def test_more_seconds_are_more_blocks_first(seconds: float, rounds: int) -> None:
    assert rounds_within(seconds) == rounds


class Scripted:
    """A device that answers as it is told: a quarter of the CPU, half the work for b, and heat.

    `scatter` slows every third process of b by this factor, and `alike` slows every second process, all models alike.
    """

    runtime, provider, facts, cpus = "onnxruntime 1", "CPUExecutionProvider", {"cpu": "Scripted"}, (0,)

    def __init__(
        self,
        threads: int = 1,
        throttled: tuple[int | None, ...] = (None, None),
        power: str = "",
        scatter: float = 1.0,
        alike: float = 1.0,
    ) -> None:
        self.scatter, self.alike, self.jobs = scatter, alike, 0
        self.device = Device(name="scripted", threads=threads, power=power)
        self.states = [
            DeviceState(load=1.0, steal=0, total=10 * n, celsius=None, throttled=t) for n, t in enumerate(throttled)
        ]

    def state(self) -> DeviceState:
        return self.states.pop(0)

    def run(self, job: Job) -> tuple[Timing, ...]:
        self.jobs += 1
        slow, b = self.alike ** (self.jobs % 2), 2.0 * self.scatter ** (self.jobs % 3 == 0)
        times = [slow * (b if model.name == "b.onnx" else 4.0) for model in job.models]
        return tuple(
            Timing(
                ((8.0,) * 5,) * job.windows, ((cpu,) * 5,) * job.windows, 1.0, 1.0, True,
                energy_j=0.5, output_error=1e-6, mhz=2000.0,
            )
            for cpu in times
        )  # fmt: skip


def scripted(a: Path, b: Path, *, seconds: float = 6.0, **how: object) -> Comparison:
    return compare_latency(Scripted(**how), a, b, seconds=seconds, emit=quiet)  # type: ignore[arg-type]


def test_clock_is_cpu_time_when_others_took_the_cpu(linear: Make) -> None:
    a, b = linear("a.onnx"), linear("b.onnx")
    found = scripted(a, b)
    assert found.ratio == pytest.approx(2.0)
    assert found.a.p50 == pytest.approx(4.0)
    assert found.environment["clock"] == "CPU time, for other processes took up to 75% of the CPU"
    assert scripted(a, b, threads=2).a.p50 == pytest.approx(8.0), "CPU time of one thread says nothing about two"


def test_a_device_that_throttled_has_no_speed(linear: Make) -> None:
    a, b = linear("a.onnx"), linear("b.onnx")
    cool = scripted(a, b, throttled=(7, 7), power="27 W supply")
    assert cool.stable
    assert (cool.environment["throttled"], cool.environment["power"]) == ("no", "27 W supply")
    hot = scripted(a, b, throttled=(7, 9))
    assert (hot.stable, hot.environment["throttled"]) == (False, "2 times")
    assert hot.verdict.words == "unstable: heat or power slowed the device down while it was measured"


def test_energy_is_that_of_one_run(linear: Make) -> None:
    assert scripted(linear("a.onnx"), linear("b.onnx")).a.energy_j == pytest.approx(0.5)


def rounds_of(found: Comparison) -> int:
    return found.a.n // (5 * 5)  # runs and windows of the scripted device


def test_a_clear_ratio_ends_the_measurement_and_an_unclear_one_takes_the_budget(linear: Make) -> None:
    a, b = linear("a.onnx"), linear("b.onnx")
    assert rounds_of(scripted(a, b, seconds=1.0)) == LEAST_ROUNDS
    assert rounds_of(scripted(a, b, seconds=1.0, alike=3.0)) == LEAST_ROUNDS, "noise that all models share"
    unclear = scripted(a, b, seconds=1.0, scatter=1.5)
    assert rounds_of(unclear) == BUDGET * rounds_within(1.0)
    assert unclear.environment["blocks"].startswith("12 rounds of at most 12: 5 windows of each model")


def test_two_equal_files_are_never_different(linear: Make) -> None:
    found = scripted(linear("a.onnx"), linear("c.onnx"))
    assert found.verdict == Verdict("unchanged", "no measurable change")
    assert found.ratio_ci95 == pytest.approx((0.99, 1.01), abs=1e-4), "measurements minutes apart differ by this"
    assert found.a.ci95 == pytest.approx((4 * 0.99, 4 * 1.01), abs=1e-3)
