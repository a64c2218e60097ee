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
         "compressor.pipeline", "compressor.progress", "compressor.report.terminal")  # fmt: skip
MOST = 6  # kills of one run


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
        checkpoint = importlib.import_module("compressor.training.training_checkpoint")
        checkpoint.MIN_INTERVAL, checkpoint.MAX_SHARE = 0.0, float("inf")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(json.dumps(killed_and_resumed(given.run, given.kills, random.Random(given.seed))))


def killed_and_resumed(args: Sequence[str], kills: int, chance: random.Random) -> dict[str, object]:
    """How many kills fell in which stage, and in how many runs. Raises AssertionError where weights differ.

    Each kill is at a random moment of a stage that is drawn first: short ones are not spared.
    """
    assert os.waitpid(begin([*args, "-o", "whole"]), 0)[1] == 0, "the undisturbed run fails"
    expected = Path("whole/slim.safetensors").read_bytes()
    lengths = stages(Path("whole"))
    fell: Counter[str] = Counter()
    runs = 0
    while fell.total() < kills:
        for _ in range(chance.randint(1, min(MOST, kills - fell.total()))):
            stage = chance.choice(list(lengths))
            if killed([*args, "-o", "cut", "--resume"], stage, chance.uniform(0, lengths[stage])):
                fell[stage] += 1
                print(f"{fell.total()} kills, {runs} runs: {stage}", file=sys.stderr)
            if Path("cut").exists():  # killed after all was done, or too late
                break
        else:
            status = os.waitpid(begin([*args, "-o", "cut", "--resume"]), 0)[1]
            assert status == 0, f"a resumed run ends with {os.waitstatus_to_exitcode(status)}"
        assert Path("cut/slim.safetensors").read_bytes() == expected, "other weights than the undisturbed run's"
        assert json.loads(Path("cut/report.json").read_text())["certificate"]["ok"]
        assert all(json.loads(line) for line in Path("cut/run.jsonl").read_text().splitlines())
        shutil.rmtree("cut")
        runs += 1
    assert not list(Path().glob(".cut*")), "something is left"
    return {"kills": fell.total(), "runs": runs, "stages": fell}


def killed(args: Sequence[str], stage: str, after: float) -> bool:
    """Whether a run was killed so many seconds into a stage; it may have been quicker."""
    before = journal().count(begun(stage))
    child = begin(args)
    while journal().count(begun(stage)) <= before and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.002)
    time.sleep(after)
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, and has been waited for
        return False
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def journal() -> str:
    places = (Path("cut/run.jsonl"), Path(".cut.partial/run.jsonl"))
    return next((place.read_text() for place in places if place.exists()), "")


def begun(stage: str) -> str:
    return json.dumps({"name": stage})[1:]


def stages(folder: Path) -> dict[str, float]:
    """Seconds of each stage of a run."""
    events = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    begins = [(each["name"], each["at"]) for each in events if each["event"] == "stage"]
    ends = [*(at for _, at in begins[1:]), events[-1]["at"]]
    return {name: end - at for (name, at), end in zip(begins, ends, strict=True)}


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


if __name__ == "__main__":
    main()
