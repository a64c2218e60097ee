"""SSH for real: this machine through its own OpenSSH server, and everything that can go wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import onnx
import pytest
from failures import raises_error

from compressor.bench.compare import compare_latency
from compressor.bench.device import connection as wire
from compressor.bench.device import device
from compressor.bench.device import transport as reach
from compressor.bench.device.protocol import Job
from compressor.errors import DeviceUnavailable, Temporary

from .conftest import Make, Server, fails, job, left, script


def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "on the device"  # a name that has to be quoted
    folder.mkdir()
    return folder


@pytest.mark.usefixtures("brief")
def test_two_models_are_compared_there_and_nothing_is_left(server: Server, there: Path, linear: Make) -> None:
    a, b = linear("a.onnx", width=256, repeats=6), linear("b.onnx", width=256, repeats=2)
    with server.device(there).open() as board:
        found = compare_latency(board, a, b, seconds=0.05, emit=lambda _name, _fields: None)
    assert found.ratio is not None
    assert found.ratio > 1.5  # 3 by the work alone
    assert (found.target, found.provider) == ("board", "CPUExecutionProvider")
    assert found.environment["outputs"].startswith("this CPU's to 0e+00 in 6 of 6 blocks")
    assert left(there) == []
    report = json.dumps(found.environment)
    secrets = ("127.0.0.1", str(server.port), str(server.folder), str(there))
    assert not [secret for secret in secrets if secret in report]


def test_files_are_sent_once_with_the_weights_beside_them(
    server: Server, there: Path, linear: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, copy = tmp_path / "big.onnx", tmp_path / "copy" / "big.onnx"
    copy.parent.mkdir()
    for path in (big, copy):
        onnx.save(onnx.load(linear("a.onnx")), path, save_as_external_data=True, location="w", size_threshold=0)
    asked: list[Mapping[str, object]] = []
    ask = wire.Connection.send_request
    monkeypatch.setattr(
        wire.Connection, "send_request", lambda self, request: (asked.append(request), ask(self, request))[1]
    )
    with server.device(there).open() as board:
        for path in (big, big, copy):
            board.run(job(path))
        sent = [str(request["name"]) for request in asked if request["do"] == "put"]
        assert sent == ["0/w", "0/big.onnx"], "the copy is made there"
        assert sorted(str(path.relative_to(there)).split("/", 2)[2] for path in there.rglob("w")) == ["0/w", "1/w"]
    assert left(there) == []


def test_a_key_it_does_not_know(server: Server, there: Path) -> None:
    stranger = server.device(there, key=server.folder / "stranger")
    fails(stranger, DeviceUnavailable, "target/unreachable", "ssh key")


def test_a_host_we_do_not_know(server: Server, there: Path, tmp_path: Path) -> None:
    nobody = tmp_path / "known"
    nobody.write_text("")
    fails(server.device(there, known_hosts=nobody), DeviceUnavailable, "target/unreachable", "fingerprint")
    assert nobody.read_text() == "", "an unknown key is never accepted"


def test_a_host_whose_key_has_changed(server: Server, there: Path, tmp_path: Path) -> None:
    other = tmp_path / "known"
    other.write_text(f"[127.0.0.1]:{server.port} {(server.folder / 'stranger.pub').read_text()}")
    fails(server.device(there, known_hosts=other), DeviceUnavailable, "target/unreachable", "ssh-keygen -R")


def test_nobody_listens(server: Server, there: Path) -> None:
    with socket.socket() as taken:  # bound, but it does not listen
        taken.bind(("127.0.0.1", 0))
        fails(server.device(there, port=taken.getsockname()[1]), DeviceUnavailable, "target/unreachable", "refused")


def test_a_host_that_hangs_before_it_says_hello(server: Server, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "CONNECT_SECONDS", 1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        fails(
            server.device(there, port=mute.getsockname()[1]), DeviceUnavailable, "target/unreachable", "did not answer"
        )


def test_a_host_that_hangs_later(server: Server, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "GREETING_SECONDS", 1.5)
    monkeypatch.setattr(wire, "CLOSE_SECONDS", 0.2)
    fails(
        server.device(there, python=script(there, "sleep 60")),
        DeviceUnavailable,
        "target/connection-lost",
        "no answer in time",
    )


def test_garbage_for_an_answer(server: Server, there: Path) -> None:
    garbage = script(there, "echo compress-runner 1; cat /dev/zero")
    fails(server.device(there, python=garbage), DeviceUnavailable, "target/connection-lost", "garbage")


def test_a_login_that_prints_a_welcome_is_no_garbage(server: Server, there: Path) -> None:
    welcome = script(there, f'echo Welcome!; exec "{sys.executable}" "$@"')
    with server.device(there, python=welcome).open() as board:
        assert board.runtime.startswith("onnxruntime ")


def test_no_python_there(server: Server, there: Path) -> None:
    fails(server.device(there, python=("/opt/no/python3",)), DeviceUnavailable, "target/no-python", "/opt/no/python3")


def test_what_fails_there_is_not_taken_for_the_way_there(server: Server, there: Path) -> None:
    fails(server.device(there / "none"), DeviceUnavailable, "target/folder-refused", "No such file or directory")
    (there / "python").write_text("not executable")
    forbidden = server.device(there, python=(str(there / "python"),))
    fails(forbidden, DeviceUnavailable, "target/no-python", "Permission denied", "targets.yaml")


def test_no_runtime_there(server: Server, there: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    found = server.device(there, python=(str(bare / "bin/python"),))
    fails(found, DeviceUnavailable, "onnx-runtime/not-installed", "No module named")


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "cramped"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True).returncode:
        pytest.skip("only root can mount a small file system to fill")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_there(server: Server, cramped: Path, linear: Make) -> None:
    with (
        server.device(cramped).open() as board,
        raises_error(Temporary, "disk-full/device", "target board"),
    ):
        board.run(job(linear("big.onnx", width=512)))
    assert left(cramped) == []
    (cramped / "filler").write_bytes(bytes(250 * 1024))
    fails(server.device(cramped), Temporary, "target/disk-full")


def test_a_connection_cut_in_the_middle_is_an_error_and_the_device_tidies_up(
    server: Server, there: Path, linear: Make
) -> None:
    long = Job(models=(linear("a.onnx"),), window_s=60.0, windows=10_000, timeout=100.0)
    with server.device(there).open() as board:
        cut = threading.Timer(1.0, lambda: [os.kill(pid, signal.SIGKILL) for pid in children(server.pid)])
        cut.start()
        with raises_error(DeviceUnavailable, "target/unreachable", "board"):
            board.run(long)
        cut.join()
    assert until(lambda: not left(there)), "the job is ended and its files are gone"
    with server.device(there).open():
        pass


def children(pid: int) -> list[int]:
    """Processes below `pid`, all of them."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    below = parents.get(pid, [])
    return [each for child in below for each in (child, *children(child)) if is_sshd(each)]


def is_sshd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    except OSError:
        return False


def test_one_bench_at_a_time_and_what_a_dead_one_left_is_swept_away(server: Server, there: Path) -> None:
    with server.device(there).open():
        fails(server.device(there), Temporary, "target/busy")
    (there / f"compress-{os.getuid()}-orphan").mkdir()
    (there / f"compress-{os.getuid()}-orphan" / "model.onnx").write_bytes(b"left")
    (there / "of somebody else").mkdir()
    with server.device(there).open():
        assert "compress-bench.lock" in [path.name for path in there.iterdir()]
        assert f"compress-{os.getuid()}-orphan" not in left(there)
    assert left(there) == ["of somebody else"]


def entry(server: Server, there: Path) -> str:
    """A targets.yaml with `board`."""
    return (
        f"version: 1\ntargets:\n- name: board\n  ssh: {{host: 127.0.0.1, port: {server.port}, "
        f"key: {server.folder}/user, known_hosts: {server.folder}/known_hosts}}\n"
        f"  python: {sys.executable}\n  folder: {there}\n"
    )


@pytest.mark.parametrize(
    ("ending", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.long)]
)
def test_a_bench_that_is_ended_leaves_nothing_there(
    server: Server, there: Path, tmp_path: Path, linear: Make, ending: signal.Signals, code: int
) -> None:
    (tmp_path / "targets.yaml").write_text(entry(server, there))
    command = [
        sys.executable,
        "-m",
        "compressor",
        "bench",
        str(linear("a.onnx")),
        "--target",
        "board",
        "--seconds",
        "90",
    ]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert until(lambda: any(there.rglob("a.onnx")), 180), "it has begun"
    running.send_signal(ending)
    _, said = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in said
    assert until(lambda: not left(there)), "files are removed and the job is ended, even when we are killed"


@pytest.mark.long
def test_a_whole_run_with_a_device_over_ssh(server: Server, there: Path, tmp_path: Path) -> None:
    (tmp_path / "targets.yaml").write_text(entry(server, there) + "  power: a battery\n")
    settings = (
        "bench.seconds=0.5",
        "retrain.epochs=1",
        "bench.batch=[1]",
        "prune.round_to=8",
        "gates={latency_ms: 1000}",
    )
    command = [sys.executable, "-m", "compressor", "cifar:resnet8@digits", "-r", "quickstart", "--target", "board"]
    command += [word for each in settings for word in ("--set", each)] + ["-o", "out", "--junit", "gates.xml", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 9), done.stderr  # 9 on a machine too busy to say
    report = json.loads(done.stdout)
    assert (report["bench"]["target"], report["bench"]["environment"]["power"]) == ("board", "a battery")
    assert report["bench"]["environment"]["inputs"] == "seeded normal", "images never leave this machine"
    assert {"layer1.0.conv1", "linear"} <= {layer["name"] for layer in report["layer_times"]}
    assert "target board is a" in done.stderr
    assert left(there) == []
    assert 'name="latency_ms"' in (tmp_path / "gates.xml").read_text()
    kept = "".join(
        path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".json", ".jsonl", ".html")
    )
    assert not [secret for secret in ("127.0.0.1", str(server.port), str(server.folder)) if secret in kept]
