"""A device that is this machine: what it answers, what it refuses to believe, and what it leaves behind."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from failures import raises_error
from onnx import TensorProto, helper

from compressor.bench import runner
from compressor.bench.device import connection as wire
from compressor.bench.device import device, session
from compressor.bench.device.device import Device
from compressor.bench.device.protocol import Job, TimingResponse
from compressor.bench.device.session import RunnerSession
from compressor.bench.runner import energy as meters
from compressor.bench.runner import system_info as machine
from compressor.bench.runner import timing
from compressor.errors import DeviceUnavailable, ModelError, RecipeError, VerificationFailed

from .conftest import Make, fails, job, script

LOST = "target/connection-lost"
HELLO = "echo compress-runner 1"


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ("sleep 60", LOST, "no answer in time"),
        ("exit 0", LOST, "the connection ended"),
        ("echo Segmentation fault >&2; exit 139", LOST, "Segmentation fault"),
        ("echo compress-runner 2; sleep 60", LOST, "speaks protocol 2, this version 1"),
        ("yes Welcome", LOST, "no runner answered"),
        ("cat /dev/zero", LOST, "garbage instead of an answer"),
        (f"{HELLO}; sleep 60", LOST, "no answer in time"),
        (f"{HELLO}; echo hello; sleep 60", LOST, "garbage instead of an answer"),
        (f"{HELLO}; echo 99999999999; cat /dev/zero", LOST, "99999999999 bytes, at most"),
        (f"{HELLO}; echo 2; echo '[]'; sleep 60", "target/garbled-answer", "local"),
        (f"{HELLO}; echo 5; echo NaN; sleep 60", LOST, "no answer in time"),
        (f'{HELLO}; echo 19; echo \'{{"runtime": "onnx"}}\'; sleep 60', "target/garbled-answer", "providers"),
        (f"{HELLO}; echo 6000; head -c 6000 /dev/zero | tr '\\0' '['; sleep 60", "target/garbled-answer", "local"),
        (
            f'{HELLO}; printf \'41\\n{{"failure": {{"kind": "oops", "model": 0}}}}\'; sleep 60',
            "target/garbled-answer",
            "failure.kind",
        ),
    ],
)
def test_answers_no_runner_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: str, word: str
) -> None:
    monkeypatch.setattr(device, "GREETING_SECONDS", 0.5)
    monkeypatch.setattr(session, "RESPONSE_SECONDS", 0.3)
    monkeypatch.setattr(session, "MARGIN", 0.2)
    monkeypatch.setattr(wire, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(wire, "EXIT_SECONDS", 0.2)
    fails(Device(python=script(tmp_path, text)), DeviceUnavailable, code, word)


def test_times_of_each_model_by_window(here: RunnerSession, linear: Make) -> None:
    small, large = linear("small.onnx", width=16), linear("large.onnx", width=512, repeats=8)
    slow, fast = here.run(Job(models=(large, small), window_s=0.01, windows=3, warm_s=0.01))
    assert here.runtime.startswith("onnxruntime ")
    assert len(here.fingerprint) == 16
    assert set(here.cpus) <= set(machine.usable_cpus())
    assert [len(timing.wall) for timing in (slow, fast)] == [3, 3]
    assert min(map(len, slow.wall)) >= timing.MIN_RUNS
    assert np.median(sum(slow.cpu, ())) > 2 * np.median(sum(fast.cpu, ()))
    assert slow.peak_bytes > 512 * 512 * 4


def test_the_fingerprint_tells_uses_apart(here: RunnerSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(**use: object) -> str:
        monkeypatch.setattr(here, "device", Device(**use))  # type: ignore[arg-type]
        return here.fingerprint

    assert len({fingerprint(), fingerprint(graph="none"), fingerprint(cpu_fallback=True)}) == 3
    assert fingerprint(name="another") == fingerprint()


def test_outputs_are_compared_with_the_reference(here: RunnerSession, linear: Make, tmp_path: Path) -> None:
    model, right, wrong = linear("a.onnx"), tmp_path / "right.npz", tmp_path / "wrong.npz"
    answer = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32) @ np.full((64, 64), 0.01, np.float32)
    np.savez(right, output0=answer)
    np.savez(wrong, output0=answer * 1.05)
    with raises_error(VerificationFailed, "wrong-output/device-differs", "4.8e-02"):
        here.run(Job((model,), window_s=0.0, warm_s=0.0, references=(wrong,)))
    error = here.run(Job((model,), window_s=0.0, warm_s=0.0, references=(right,)))[0].output_error
    assert error is not None, "a failed job does not end the device"
    assert error < 1e-5


def test_a_provider_that_is_not_there_is_no_silent_cpu(linear: Make) -> None:
    with (
        Device(provider="qnn").open() as here,
        raises_error(DeviceUnavailable, "provider/not-available", "QNNExecutionProvider", "cpu"),
    ):
        here.run(job(linear("a.onnx")))


def test_another_provider_than_asked_is_not_believed(
    here: RunnerSession, linear: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(session.PROVIDERS, "cpu", "QNNExecutionProvider")
    with raises_error(DeviceUnavailable, "target/garbled-answer", "CPUExecutionProvider"):
        here.run(job(linear("a.onnx")))


def test_more_threads_than_there_are() -> None:
    with (
        raises_error(RecipeError, "bench/threads-refused", "bench.threads", "4096"),
        Device(threads=4096).open(),
    ):
        pytest.fail("it was opened")


def test_integer_inputs_are_made_up(here: RunnerSession, tmp_path: Path) -> None:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])
    out = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    table = helper.make_tensor("table", TensorProto.FLOAT, [2, 4], [0.0] * 8)
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["output"])], "x", [ids], [out], [table])
    path = tmp_path / "ids.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert len(here.run(Job((path,), window_s=0.0, warm_s=0.0, batch=2))[0].wall[0]) == timing.MIN_RUNS


def test_a_model_that_takes_too_long_is_ended(here: RunnerSession, linear: Make) -> None:
    with raises_error(DeviceUnavailable, "measurement/failed", "target local", "a.onnx", "1 s"):
        here.run(Job((linear("a.onnx"),), window_s=60.0, windows=10_000, timeout=1.0))
    with raises_error(ModelError, "onnx-model/not-loadable", "gone.onnx"):
        here.run(job(Path("gone.onnx")))


def test_a_process_that_dies_is_an_unavailable_device(linear: Make, tmp_path: Path) -> None:
    limited = script(tmp_path, f'ulimit -t 2; exec "{sys.executable}" "$@"')
    with (
        Device(python=limited).open() as here,
        raises_error(DeviceUnavailable, "measurement/failed", re.compile("ended with -")),
    ):
        here.run(Job((linear("a.onnx"),), window_s=60.0, windows=10_000))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear: Make) -> None:
    model = linear("a.onnx")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    with Device().open() as here:
        here.run(job(model))
        assert [path.name[:9] for path in (tmp_path / "there").iterdir()] == ["compress-"]
    assert not list((tmp_path / "there").iterdir())


def test_the_runner_keeps_to_what_devices_have() -> None:
    """Python 3.8, numpy, ONNX Runtime; the same bytes each time."""
    with zipfile.ZipFile(io.BytesIO(device.runner_archive())) as file:
        sources = {name: file.read(name).decode() for name in file.namelist()}
    sources["bootstrap"] = device.bootstrap_program()
    allowed = {*sys.stdlib_module_names, "numpy", "onnxruntime", "runner"}
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source, feature_version=(3, 8))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [str(node.module)] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert {each.split(".")[0] for each in found} <= allowed, name
    device.runner_archive.cache_clear()
    again = device.runner_archive()
    device.runner_archive.cache_clear()
    assert device.runner_archive() == again


def test_the_user_s_own_files_are_not_imported(tmp_path: Path) -> None:
    for name in ("json", "numpy", "onnxruntime", "tempfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    code = """
from compressor.bench.device.device import Device
with Device().open() as here:
    print(here.runtime)
"""
    root = str(Path(device.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout.startswith("onnxruntime "), done.stderr


def test_files_go_nowhere_but_in_their_folder(tmp_path: Path) -> None:
    sys.modules.setdefault("runner", runner)
    from compressor.bench.runner.server import RequestHandler

    keeper = RequestHandler(str(tmp_path), "runner.zip")
    assert keeper.file_path({"name": "0/model.onnx"}) == str(tmp_path / "files/0/model.onnx")
    for name in ("../runner.zip", "/etc/passwd", "0/../../x", "", ".."):
        with pytest.raises(OSError, match="not a name for a file"):
            keeper.file_path({"name": name})


def fake_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for module in (machine, meters):
        monkeypatch.setattr(module, "SYS", str(tmp_path / "sys"))
    monkeypatch.setattr(machine, "PROC", str(tmp_path / "proc"))


def test_what_a_board_says_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = "sys/devices/system/cpu"
    fake_system(
        tmp_path,
        monkeypatch,
        {
            "proc/cpuinfo": "processor : 0\nmodel name\t: Cortex-A76\n",
            "proc/stat": "cpu 1 2 3 40 5 6 7 8 9 10\ncpu0 1 1 1 1 1 1 1 1\nintr 5\n",
            f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "1500000",
            f"{cpu}/cpu1/cpufreq/scaling_cur_freq": "2400000",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "3",
            f"{cpu}/cpu1/thermal_throttle/package_throttle_count": "4",
            "sys/class/thermal/thermal_zone0/temp": "61500",
            "sys/class/thermal/thermal_zone1/temp": "72250",
            "sys/fs/cgroup/cpu.max": "150000 100000",
        },
    )
    assert machine.cpu_model() == "Cortex-A76"
    assert machine.cpu_quota() == "1.5 CPUs"
    assert machine.usable_cpu_count() == 1
    assert machine.mhz([0, 1]) == 1950.0
    assert machine.mhz([7]) is None
    found = machine.load_state()
    assert (found["celsius"], found["throttled"], found["steal"], found["total"]) == (72.25, 7, 8, 72)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "200000 100000"}, 2.0),  # of the group around it
        # In a container, with the path of the host.
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/x\n0::/",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
    ],
)
def test_cpus_that_a_control_group_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: float | None
) -> None:
    fake_system(tmp_path, monkeypatch, files)
    assert machine.cpu_limit() == limit
    assert machine.usable_cpu_count() == min(len(machine.usable_cpus()), max(1, int(limit or 1e9)))


def test_energy_is_the_packages_and_none_where_no_meter_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "read_nvml", lambda: None)
    fake_system(tmp_path, monkeypatch, {"sys/class/powercap/intel-rapl/enabled": "1"})
    assert meters.energy_joules() is None
    assert meters.meter_readings() == {}
    assert meters.meter_unavailable_reason().startswith("no RAPL counter")
    rapl = "sys/class/powercap/intel-rapl"
    packages = {f"{rapl}:0/energy_uj": "1500000", f"{rapl}:1/energy_uj": "500000", f"{rapl}:0:0/energy_uj": "999"}
    fake_system(tmp_path, monkeypatch, packages)
    assert meters.energy_joules() == 2.0, "cores are part of their package"
    assert meters.meter_readings() == {"RAPL": 2.0}
    assert "root" in meters.meter_unavailable_reason()
    assert timing.add_energy(1.0, 2.0, 2.5) == 1.5
    assert timing.add_energy(1.0, 2.0, 0.1) is None, "a counter that wrapped around"
    assert timing.add_energy(0.0, None, None) is None


def test_timings_that_contradict_themselves_are_refused() -> None:
    model = {"session_ms": 1.0, "first_run_ms": 1.0, "warm": True, "energy_j": None, "output_error": None}
    whole = {"runtime": "onnxruntime 1", "providers": ["x"], "cpus": [], "mhz": None, "peak_bytes": 0}

    def answer(wall: object, cpu: object) -> str:
        return json.dumps({**whole, "timings": [{**model, "wall_ns": wall, "cpu_ns": cpu}]})

    assert TimingResponse.model_validate_json(answer([[5, 6]], [[1, 2]])).timings[0].wall_ns == [[5, 6]]
    for wall, cpu in (
        ([[5]], [[1, 2]]),
        ([[0]], [[1]]),
        ([[-5]], [[1]]),
        ([[]], [[]]),
        ([["5"]], [[1]]),
        ([[1.5]], [[1]]),
    ):
        with pytest.raises(ValueError, match="timings"):
            TimingResponse.model_validate_json(answer(wall, cpu))
