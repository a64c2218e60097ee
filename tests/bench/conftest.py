"""Small ONNX files made by hand, and an SSH server to reach this machine by."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pytest
from failures import raises_error
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import compare, interleaved
from compressor.bench.device.device import Device
from compressor.bench.device.protocol import Job
from compressor.bench.device.session import RunnerSession
from compressor.bench.device.transport import SshTransport
from compressor.errors import CompressorError

Make = Callable[..., Path]


def job(*models: Path) -> Job:
    return Job(models=models, window_s=0.01, warm_s=0.0, timeout=60.0)


def left(folder: Path) -> list[str]:
    """What lies in the device's folder, but for the lock."""
    return [path.name for path in folder.iterdir() if path.name != "compress-bench.lock"]


def fails(device: Device, error: type[CompressorError], code: str, *values: str) -> None:
    with raises_error(error, code, device.name, *values) as caught, device.open():
        pytest.fail("it was opened")
    assert "\n" not in str(caught.value)


def script(folder: Path, text: str) -> tuple[str, ...]:
    """A command for `python` that runs a shell script instead."""
    path = folder / "fake python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return (str(path),)


@dataclass(frozen=True)
class Server:
    port: int
    folder: Path  # host, user and stranger: keys; known_hosts
    pid: int

    def device(self, folder: Path, *, python: tuple[str, ...] = (sys.executable,), **changes: object) -> Device:
        """A device that is this machine, over SSH. `changes` are those of the way there."""
        way: dict[str, object] = {
            "host": "127.0.0.1",
            "user": getpass.getuser(),
            "port": self.port,
            "key": self.folder / "user",
            "known_hosts": self.folder / "known_hosts",
        }
        return Device(name="board", transport=SshTransport(**(way | changes)), python=python, folder=str(folder))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def here() -> Iterator[RunnerSession]:
    """This machine, opened once for the tests that ask it the usual things."""
    with Device().open() as session:
        yield session


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison of two rounds, the second the mirror of the first."""
    monkeypatch.setattr(interleaved, "WARM_SECONDS", 0.01)
    monkeypatch.setattr(interleaved, "MIN_ROUNDS", 2)
    monkeypatch.setattr(compare, "BUDGET", 1)


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


def not_here(reason: str) -> NoReturn:
    """Skip, or fail where the environment says that SSH must be tested, as .ci/run does."""
    if os.environ.get("COMPRESS_REQUIRE_SSH"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real OpenSSH server on a port of its own, with keys of its own, that lets the user of the tests in."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None or not shutil.which("ssh"):
        not_here("no OpenSSH server here: apt-get install openssh-server openssh-client")
    folder = tmp_path_factory.mktemp("sshd")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    running = subprocess.Popen([sshd, "-D", "-E", folder / "log", "-f", folder / "config"])
    try:
        for _ in range(100):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            not_here(f"sshd does not start here: {(folder / 'log').read_text()[-300:]}")
        yield Server(port, folder, running.pid)
    finally:
        running.terminate()
        running.wait()
