"""Accuracy at equal latency: the recipe `minutes` by choice of channels, without training and without labels.

    python tests/benchmarks/at_latency.py resnet56.pt path/to/cifar10 rows.jsonl --shares 70% 50% 35%

A choice is criterion/scope, or criterion/scope/blocks where residual blocks may be dropped. Every row is one run of the
command line: it searches widths for a share of the dense model's latency, repairs, and measures both files in turn. A
row that the file has already is not computed again. Labels of test images report the accuracy and choose nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from rows import collected

CHOICES = ("l1/local", "obs/local", "obs/error", "obs/error/blocks")


def run(model: str, data: str, choice: str, share: str) -> dict[str, object]:
    """Accuracy, speed-up with its interval and seconds of one run."""
    criterion, scope, *blocks = choice.split("/")
    settings = [f"prune.criterion={criterion}", f"prune.scope={scope}", f"prune.target={{latency: {share}}}"]
    settings += ["prune.rounds=1", "prune.blocks={drop: auto}" if blocks else "prune.blocks=null"]
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "compressor", model, "-r", "minutes", "--data", data, "--json", "-q"]
        command += ["-o", f"{folder}/out", *(word for setting in settings for word in ("--set", setting))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    if "slim" not in report:
        return {"exit": done.returncode, "error": report}
    return {
        "exit": done.returncode,
        "accuracy": report["slim"]["accuracy"],
        "stages": report["accuracy_steps"],
        "agreement": report["agreement"]["top1"],
        "kl": report["agreement"]["kl"],
        "latency": report["ratios"]["latency"],
        "interval": report["ratios"]["latency_ci95"],
        "macs": report["ratios"]["macs"],
        "seconds": round(time.perf_counter() - start),
    }


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model")
    words.add_argument("data")
    words.add_argument("rows", type=Path)
    words.add_argument("--shares", nargs="+", default=["70%", "50%", "35%"])
    words.add_argument("--choices", nargs="+", default=CHOICES)
    given = words.parse_args()
    keys = [{"choice": choice, "share": share} for share, choice in product(given.shares, given.choices)]
    collected(given.rows, keys, lambda choice, share: run(given.model, given.data, choice, share))


if __name__ == "__main__":
    main()
