"""Runs that are killed and resumed end with the weights of one that was left in peace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent / "tools" / "kill.py"
QUICK = ["--set", "retrain.epochs=1", "--set", "retrain.schedule.name=constant", "--set", "bench.seconds=0.2"]


def kill(kills: int, *run: str) -> dict[str, int]:
    """Kills by stage."""
    command = [sys.executable, TOOL, "--kills", str(kills), "--often", "--", *run]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stages: dict[str, int] = json.loads(done.stdout)["stages"]
    return stages


@pytest.mark.long
@pytest.mark.parametrize(
    "run", [["-r", "quickstart", *QUICK], ["-r", "tpp", "--data", "digits", *QUICK, "--set", "prune.tpp.epochs=1"]]
)
def test_killed_in_every_stage(run: list[str]) -> None:
    stages = kill(40, "cifar:resnet8@digits", *run)
    assert sum(stages.values()) == 40
    assert len(stages) >= 8
