"""targets.yaml: where it is found, what it may say, and what is said of its faults."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from failures import raises_error

from compressor.bench.device.transport import AdbTransport, LocalTransport, SshTransport
from compressor.bench.open_device import open_device
from compressor.cli import run
from compressor.errors import RecipeError
from compressor.recipe.device_config import read_targets

BOARD = """version: 1
targets:
- name: board
  ssh: {host: board.local, user: bench, port: 2222, key: ~/.ssh/board}
  python: taskset f0 /opt/my venv/bin/python
  threads: 4
  graph: extended
  power: 27 W supply
- name: phone
  adb: {serial: R58M}
  python: [/data/my python/bin/python3]
- name: gpu
  provider: cuda
  options: {device_id: "1"}
  cpu_fallback: true
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_built_in() -> None:
    assert open_device("none") is None
    local = open_device("local", 2)
    assert local is not None
    assert (local.name, local.transport, local.threads, local.provider) == ("local", LocalTransport(), 2, "cpu")


def test_what_a_file_says_becomes_a_target(tmp_path: Path) -> None:
    Path("targets.yaml").write_text(BOARD)
    board, phone, gpu = map(open_device, ("board", "phone", "gpu"))
    assert board is not None
    assert board.transport == SshTransport("board.local", "bench", 2222, tmp_path / ".ssh/board")
    assert board.python == ("taskset", "f0", "/opt/my", "venv/bin/python"), "words are split as a shell would"
    assert (board.threads, board.graph, board.power, board.folder) == (4, "extended", "27 W supply", "/tmp")
    overridden = open_device("board", 1)
    assert overridden is not None
    assert overridden.threads == 1
    assert phone is not None
    assert (phone.transport, phone.folder) == (AdbTransport("R58M"), "/data/local/tmp")
    assert phone.python == ("/data/my python/bin/python3",)
    assert gpu is not None
    assert (gpu.transport, gpu.provider, gpu.options, gpu.cpu_fallback) == (
        LocalTransport(),
        "cuda",
        {"device_id": "1"},
        True,
    )


def test_where_the_file_is_looked_for(tmp_path: Path) -> None:
    with raises_error(RecipeError, "target/no-targets-file", "bench.target", "board", "targets.yaml", "local"):
        open_device("board")
    (tmp_path / "config/compress").mkdir(parents=True)
    (tmp_path / "config/compress/targets.yaml").write_text(BOARD.replace("threads: 4", "threads: 3"))
    found = open_device("board")
    assert found is not None
    assert found.threads == 3
    Path("targets.yaml").write_text(BOARD)
    assert [open_device("board").threads, open_device("board", file=tmp_path / "targets.yaml").threads] == [4, 4]  # type: ignore[union-attr]
    with raises_error(RecipeError, "targets/no-such-file", "other.yaml", "--target-file"):
        open_device("board", file=Path("other.yaml"))


def test_a_name_that_is_nearly_right() -> None:
    Path("targets.yaml").write_text(BOARD)
    with raises_error(RecipeError, "target/unknown-name", "borad", "targets.yaml", "did you mean board?", "phone"):
        open_device("borad")


@pytest.mark.parametrize(
    ("old", "new", "code", "value"),
    [
        (
            "host: board.local",
            "hots: board.local",
            "targets/unknown-key",
            "targets.yaml:4:9: targets.0.ssh.hots is not a key; did you mean host?",
        ),
        (
            "host: board.local",
            "host: -oProxyCommand=x",
            "targets/malformed",
            "targets.yaml:4:15: targets.0.ssh.host is '-oProxyCommand=x'",
        ),
        ("host: board.local", "host: 'a b'", "targets/malformed", "targets.0.ssh.host is 'a b'"),
        ("user: bench", "user: -x", "targets/malformed", "targets.0.ssh.user is '-x'"),
        ("port: 2222", "port: 70000", "targets/out-of-range", "65535"),
        (
            "port: 2222",
            "password: secret",
            "targets/unknown-key",
            "targets.0.ssh.password is not a key; allowed: host, user, port, key",
        ),
        ("name: board", "name: local", "targets/not-allowed", "local and none"),
        ("name: board", "name: phone", "targets/not-allowed", "each name once"),
        ("name: board", "name: ../up", "targets/malformed", "targets.0.name is '../up'"),
        ("  threads: 4", "  adb: {}", "targets/not-allowed", "either ssh or adb"),
        ("  threads: 4", "  threads: 0", "targets/out-of-range", "at least 1"),
        ("provider: cuda", "provider: gpu", "targets/not-allowed", "targets.2.provider is 'gpu'"),
        ("graph: extended", "folder: here", "targets/malformed", "targets.0.folder is 'here'"),
        (
            "python: taskset f0 /opt/my venv/bin/python",
            "python: 'un\"closed'",
            "targets/not-allowed",
            "(No closing quotation)",
        ),
        ("version: 1", "version: 2", "targets/not-allowed", "targets.yaml:1:10"),
        (BOARD, "version: 1\ntargets: []\n", "targets/too-short", "at least one"),
        (BOARD, "[", "targets/not-yaml", "targets: targets.yaml:"),
    ],
)
def test_faults_say_where_and_what_is_allowed(old: str, new: str, code: str, value: str) -> None:
    Path("targets.yaml").write_text(BOARD.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        read_targets(Path("targets.yaml"))
    (error,) = [error for error in caught.value.errors if value in str(error)]
    assert error.code == code
    assert error.place.startswith("targets.yaml:")


def test_a_device_out_of_reach_is_exit_code_10(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound, but it does not listen
        taken.bind(("127.0.0.1", 0))
        host = f"host: 127.0.0.1, port: {taken.getsockname()[1]}"
        Path("targets.yaml").write_text(f"version: 1\ntargets:\n- name: board\n  ssh: {{{host}}}\n")
        Path("a.onnx").write_bytes(b"x")
        assert run(["bench", "a.onnx", "--target", "board", "-q"]) == 10
        assert run(["cifar:resnet8@digits", "-r", "quickstart", "--target", "board", "-o", "out", "-q"]) == 10
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("compress: target: board: it refused the connection; check host and port in targets.yaml") == 2
    assert list(Path().glob("*out*")) == []


def test_the_command_line_says_so_before_it_does_anything(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.onnx").write_bytes(b"x")
    assert run(["bench", "a.onnx", "--target", "none"]) == 2
    assert run(["bench", "a.onnx", "--target", "board"]) == 2
    assert run(["cifar:resnet8@digits", "-r", "quickstart", "--target", "board", "-o", "out", "-q"]) == 2
    assert capsys.readouterr().err.count("board, but there is no targets.yaml") == 2
    assert not Path("out").exists()
