"""Kill runs of the command line with SIGKILL at random moments, and resume them until they are done.

    python tests/tools/kill.py --kills 100 --seed 0 -- cifar:resnet8@digits -r quickstart

Ends with 0 when every run that was killed and resumed left the weights of the undisturbed one, byte for byte, and
prints one JSON object: kills by the stage they fell in. All that is heavy is imported once, and each run is a fork of
that: nothing here computes, so there is no thread to lose.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

HEAVY = ("torch", "torchvision", "timm", "onnxscript", "torch.onnx._internal.exporter._core", "lightning_fabric",
         "compressor.pipeline", "compressor.terminal", "compressor.report.terminal")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--often", action="store_true", help="write a checkpoint in every iteration")
    parser.add_argument("run", nargs="+", help="what stands after `compress`")
    given = parser.parse_args()
    for name in HEAVY:
        importlib.import_module(name)
    if given.often:
        checkpoint = importlib.import_module("compressor.training.checkpoint")
        checkpoint.AT_LEAST, checkpoint.SHARE = 0.0, float("inf")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(json.dumps(killed_and_resumed(given.run, given.kills, random.Random(given.seed))))


def killed_and_resumed(args: Sequence[str], kills: int, chance: random.Random) -> dict[str, object]:
    """How many kills fell in which stage, and in how many runs. Raises AssertionError where weights differ."""
    start = time.monotonic()
    assert os.waitpid(begin([*args, "-o", "whole"]), 0)[1] == 0, "the undisturbed run fails"
    length = time.monotonic() - start
    expected = Path("whole/slim.safetensors").read_bytes()
    stages: Counter[str] = Counter()
    runs = 0
    while stages.total() < kills:
        while not Path("cut").exists():
            child = begin([*args, "-o", "cut", "--resume"])
            time.sleep(chance.uniform(0, length))
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            assert status in (0, signal.SIGKILL), f"a resumed run ends with {os.waitstatus_to_exitcode(status)}"
            if status:
                stages[stage()] += 1
                print(dict(stages), runs, file=sys.stderr)
        assert Path("cut/slim.safetensors").read_bytes() == expected, "other weights than the undisturbed run's"
        assert json.loads(Path("cut/report.json").read_text())["certificate"]["ok"]
        assert all(json.loads(line) for line in Path("cut/run.jsonl").read_text().splitlines())
        shutil.rmtree("cut")
        runs += 1
    assert not list(Path().glob(".cut*")), "something is left"
    return {"kills": stages.total(), "runs": runs, "seconds of a run": round(length, 1), "stages": stages}


def begin(args: Sequence[str]) -> int:
    """A process that runs the command line."""
    child = os.fork()
    if child:
        return child
    from compressor import cli

    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    code = cli.run(["-q", *args])
    os._exit(code)


def stage() -> str:
    """Where a run was that has been killed."""
    for place in (Path("cut/run.jsonl"), Path(".cut.partial/run.jsonl")):
        if place.exists():
            lines = place.read_bytes().rpartition(b"\n")[0].splitlines()  # without what the kill cut off
            named = [each["name"] for each in map(json.loads, lines) if each["event"] == "stage"]
            if named:
                return named[-1]
    return "before the first stage"


if __name__ == "__main__":
    main()
