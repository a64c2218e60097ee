"""Which channels are removed: accuracy by criterion and scope, at equal MACs or at equal measured latency.

    python tests/benchmarks/choice.py resnet56.pt path/to/cifar10 rows.jsonl --targets macs:50% latency:50% --seeds 0 1

A choice is criterion/scope, or criterion/scope/blocks where residual blocks may be dropped. Every row is one run of the
recipe `minutes` on the command line: it prunes, fits the layers on 1,024 images without labels, and then trains for
`--epochs` on the dense model's answers to 5,000 training images. Accuracy is that of all test images after every step;
they choose nothing. A row that the file has already is not computed again.
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

import pyarrow.parquet as pq
from rows import collected, spread

CHOICES = ("l1/local", "l1/global", "taylor/global", "obs/local", "obs/error", "obs/error/blocks")
TARGETS = tuple(f"{measure}:{share}" for measure in ("macs", "latency") for share in ("70%", "50%", "35%"))
RETRAIN = """retrain={{epochs: {epochs}, batch_size: 128,
    optimizer: {{name: sgd, lr: 0.03, momentum: 0.9, weight_decay: 5.0e-4}}, schedule: {{name: onecycle}},
    distill: {{teacher: dense, labels: false, temperature: 2}}, recalibrate: false}}"""
IMAGES = 5000  # of an epoch, the first ones of the training images


def run(model: str, data: str, epochs: int, target: str, choice: str, seed: int) -> dict[str, object]:
    """Accuracy after every step, speed-up with its interval, and seconds of one run."""
    measure, share = target.split(":")
    criterion, scope, *blocks = choice.split("/")
    settings = [f"seed={seed}", f"prune.criterion={criterion}", f"prune.scope={scope}", "prune.rounds=1"]
    settings += [f"prune.target={{{measure}: {share}}}", f"prune.blocks={'{drop: auto}' if blocks else 'null'}"]
    if measure == "macs":
        settings += ["prune.round_to=1", "bench.target=none"]
    if epochs:
        settings.append(RETRAIN.format(epochs=epochs))
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
        "stages": report["accuracy_steps"],
        "accuracy": report["slim"]["accuracy"],
        "agreement": report["agreement"]["top1"],
        "kl": report["agreement"]["kl"],
        "latency": report["ratios"]["latency"],
        "interval": report["ratios"]["latency_ci95"],
        "macs": report["ratios"]["macs"],
        "seconds": round(time.perf_counter() - start),
    }


def first_images(data: Path, folder: Path) -> Path:
    """A folder with the first training images of `data`, and with all of its test images."""
    pq.write_table(pq.read_table(data / "train.parquet").slice(0, IMAGES), folder / "train.parquet")
    (folder / "test.parquet").symlink_to((data / "test.parquet").resolve())
    return folder


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model")
    words.add_argument("data", type=Path)
    words.add_argument("rows", type=Path)
    words.add_argument("--targets", nargs="+", default=TARGETS)
    words.add_argument("--choices", nargs="+", default=CHOICES)
    words.add_argument("--seeds", nargs="+", type=int, default=[0])
    words.add_argument("--epochs", type=int, default=0)
    given = words.parse_args()
    kinds = list(product(given.targets, given.choices))
    keys = [{"target": target, "choice": choice, "seed": seed} for seed in given.seeds for target, choice in kinds]
    with TemporaryDirectory() as folder:
        data = str(first_images(given.data, Path(folder)))
        rows = collected(given.rows, keys, lambda **key: run(given.model, data, given.epochs, **key))
    print("target | choice | accuracy % after the steps | KL | speed-up | fewer MACs | seconds")
    for target, choice in kinds:
        same = [row for row in rows if (row["target"], row["choice"]) == (target, choice) and "stages" in row]
        stages = {name for row in same for name, value in row["stages"].items() if value is not None}
        cells = [f"{name} {spread([row['stages'][name] for row in same])}" for name in sorted(stages)]
        for name in ("kl", "latency", "macs", "seconds"):
            cells.append(spread([row[name] for row in same if row[name] is not None]))
        print(" | ".join([target, choice, *cells]))


if __name__ == "__main__":
    main()
