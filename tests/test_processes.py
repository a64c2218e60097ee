"""The command line with several processes: the weights of one, whoever starts them; one that is lost ends the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

RUN = [
    "-m", "compressor", "cifar:resnet8@digits", "-r", "quickstart", "--target", "none", "-q",
    "--set", "retrain.precision=fp32", "--set", "retrain.schedule.name=constant",
]  # fmt: skip


def start(command: list[str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True)


def node(rank: int, port: int, *run: str) -> list[str]:
    """torchrun of one machine of two."""
    place = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", str(port)]
    return [sys.executable, "-m", "torch.distributed.run", *place, "--nproc-per-node", "1", *RUN, *run]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.long
def test_one_process_two_devices_and_two_nodes_agree(tmp_path: Path) -> None:
    epochs = ["--set", "retrain.epochs=2"]
    port = free_port()
    commands = {
        "one": [[sys.executable, *RUN, *epochs, "-o", "one"]],
        "devices": [[sys.executable, *RUN, *epochs, "-o", "devices", "--devices", "2"]],
        "nodes": [node(rank, port, *epochs, "-o", "nodes", "--nodes", "2") for rank in (0, 1)],
    }
    for name, parts in commands.items():
        for process in [start(part, tmp_path) for part in parts]:
            assert process.communicate(timeout=600)[1].count("compress:") == 0, name
            assert process.returncode == 0, name
    one, *others = (load_file(tmp_path / name / "slim.safetensors") for name in commands)
    for other in others:
        for name, expected in one.items():
            # Sums in another order differ in the last bit, and every iteration makes more of it.
            torch.testing.assert_close(other[name], expected, rtol=1e-3, atol=1e-3)
    assert {each.name for each in tmp_path.iterdir()} == set(commands), "files come from the leading process alone"


@pytest.mark.long
@pytest.mark.parametrize(("lost", "code", "words"), [(True, 75, "killed by SIGKILL"), (False, 143, "SIGTERM")])
def test_what_ends_one_process_ends_all_and_can_be_resumed(tmp_path: Path, lost: bool, code: int, words: str) -> None:
    run = [sys.executable, *RUN, "--set", "retrain.epochs=400", "-o", "out"]
    process = start([*run, "--devices", "2"], tmp_path)
    while not (tmp_path / ".out.partial" / ".training").exists() and process.poll() is None:
        time.sleep(0.05)
    listed = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
    helpers = [int(each) for each in listed.stdout.split()]
    assert len(helpers) == 2
    os.kill(helpers[1] if lost else process.pid, signal.SIGKILL if lost else signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert words in said
    assert "--resume" in said
    assert not any(Path(f"/proc/{each}").exists() for each in helpers), "none is left"
    assert list((tmp_path / ".out.partial" / ".training").iterdir())
