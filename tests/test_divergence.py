"""A run that diverged, continued with another learning rate, as a user does it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

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
    def said(*more: str) -> tuple[int, str]:
        with contextlib.chdir(tmp_path):
            return cli.run([*RUN, *more]), capsys.readouterr().err

    code, words = said("--set", "retrain.optimizer.lr=1e30")
    assert code == 6
    assert words.startswith("compress: training: epoch 1, iteration ")
    assert words.endswith("for example --resume --set retrain.optimizer.lr=1e+29\n")

    smaller = ("--resume", "--set", "retrain.optimizer.lr=0.001")
    code, words = said(*smaller, "--set", "retrain.batch_size=32")
    assert code == 2
    assert "left by a run of another recipe" in words
    code, words = said(*smaller, "--set", "prune.tpp.lr=0.003")
    assert code == 2
    assert "training there has prune.tpp.lr=0.002, not 0.003, and has not diverged" in words

    code, words = said(*smaller)
    assert (code, words) == (0, "")
    events = [json.loads(line) for line in (tmp_path / "out" / "run.jsonl").read_text().splitlines()]
    epochs = [(each["stage"], each["lr"]) for each in events if each["event"] == "epoch"]
    assert epochs == [("regularisation", 0.002), ("retraining", 0.001)], "what had ended is not done again"
    assert [each["text"] for each in events if "diverged" in each.get("text", "")] == [
        "training diverged with retrain.optimizer.lr=1e+30: it starts anew with 0.001"
    ]
