"""A run that diverged, continued with another learning rate, as a user does it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from compressor import cli

RUN = (
    "-q", "cifar:resnet8@digits", "-r", "tpp", "--data", "digits", "--target", "none", "-o", "out",
    "--set", "prune.tpp.epochs=1", "--set", "retrain.epochs=1", "--set", "retrain.schedule.name=constant",
)  # fmt: skip


@pytest.mark.long
def test_a_run_that_diverged_goes_on_with_another_learning_rate_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def result(*more: str) -> tuple[int, dict[str, Any]]:
        with contextlib.chdir(tmp_path):
            return cli.run([*RUN, *more, "--json"]), json.loads(capsys.readouterr().out)

    exit_code, printed = result("--set", "retrain.optimizer.lr=1e30")
    error = printed["error"]
    assert (exit_code, error["code"]) == (6, "training/diverged")
    assert error["place"].startswith("epoch 1, iteration ")
    assert "--resume --set retrain.optimizer.lr=1e+29" in error["hint"]

    smaller = ("--resume", "--set", "retrain.optimizer.lr=0.001")
    exit_code, printed = result(*smaller, "--set", "retrain.batch_size=32")
    assert (exit_code, printed["error"]["code"]) == (2, "resume/other-run")
    exit_code, printed = result(*smaller, "--set", "prune.tpp.lr=0.003")
    assert (exit_code, printed["error"]["code"]) == (2, "resume/other-learning-rate")
    assert "prune.tpp.lr=0.002, not 0.003" in printed["error"]["problem"]

    exit_code, printed = result(*smaller)
    assert (exit_code, "error" in printed) == (0, False)
    events = [json.loads(line) for line in (tmp_path / "out" / "run.jsonl").read_text().splitlines()]
    epochs = [(each["stage"], each["lr"]) for each in events if each["event"] == "epoch"]
    assert epochs == [("regularisation", 0.002), ("retraining", 0.001)], "what had ended is not done again"
    assert [each["text"] for each in events if "diverged" in each.get("text", "")] == [
        "training diverged with retrain.optimizer.lr=1e+30; it starts again with 0.001"
    ]
