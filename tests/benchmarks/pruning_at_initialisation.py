"""Which masks drawn before any training leave a network that can still be trained: the more goes, the more they differ.

    python tests/benchmarks/pruning_at_initialisation.py cifar:resnet20 path/to/cifar10 out --seeds 0 1 2

The published point (de Jorge et al., arXiv:2006.09081): beyond about 95 % SNIP and GraSP fall below weights masked by
lot, while FORCE and iterative SNIP stay trainable up to 99.5 %. Every run begins with weights drawn anew by its seed,
and trains for the same epochs at the same rates; it is one line of out/runs.jsonl. A run whose report is there already
is not repeated. Runs go one after another, or several side by side with fewer threads each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

METHODS = ("random-u", "snip", "grasp", "iterative-snip", "force")
SCHEDULE = "retrain.schedule={{name: multistep, milestones: [{first}, {second}], gamma: 0.1}}"


@dataclass(frozen=True)
class Run:
    method: str
    sparsity: float  # % of the weights that are masked
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.sparsity:g}-{self.seed}"

    def overrides(self, given: argparse.Namespace) -> list[str]:
        """Rates fall tenfold at 3/7 and 5/7 of the epochs, as 350 do at 150 and 250."""
        return [
            f"prune.target={{weights: {100 - self.sparsity:.10g}%}}",
            f"prune.{self.method}.start=random",
            *(f"prune.{self.method}.{each}" for each in given.settings if self.method in given.tuned),
            f"retrain.epochs={given.epochs}",
            f"retrain.batch_size={given.batch_size}",
            f"retrain.optimizer={{name: sgd, lr: {given.lr}, momentum: 0.9, weight_decay: 5.0e-4}}",
            SCHEDULE.format(first=given.epochs * 3 / 7, second=given.epochs * 5 / 7),
            f"seed={self.seed}",
            "bench.target=none",
            *given.set,
        ]


def perform(run: Run, given: argparse.Namespace) -> dict[str, object]:
    """What a run came to; an error in words where it failed."""
    report = given.out / run.name / "report.json"
    if not report.exists():
        words = [word for each in run.overrides(given) for word in ("--set", each)]
        command = [given.model, "-r", run.method, "--data", given.data, "-o", str(report.parent), "-q", "--resume"]
        threads = str(max(1, (os.cpu_count() or 1) // given.side_by_side))
        done = subprocess.run(
            [sys.executable, "-m", "compressor", *command, *words],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True,
            text=True,
        )
        if not report.exists():
            return {**vars(run), "error": done.stderr.strip().splitlines()[-1:]}
    found = json.loads(report.read_text())
    masks = found["masks"]
    return {
        **vars(run),
        "epochs": given.epochs,
        "accuracy": found["slim"]["accuracy"],
        "weight_sparsity": masks["sparsity_percent"],
        "fewest_left": min(each["left"] for each in masks["layers"]),
        "params": found["slim"]["params"],
        "seconds": sum(found["seconds"].values()),
        "notes": [note for note in found["notes"] if "best" in note or "did nothing" in note],
    }


def table(rows: Sequence[dict[str, object]]) -> str:
    """Mean accuracy over seeds and half the range: a line a method, a column a sparsity."""
    shares = sorted({float(str(row["sparsity"])) for row in rows})
    lines = [" | ".join(["method", *(f"{share:g} %" for share in shares)])]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for share in shares:
            found = [
                float(str(row["accuracy"]))
                for row in rows
                if (row["method"], row["sparsity"]) == (method, share) and row.get("accuracy") is not None
            ]
            spread = f" ± {(max(found) - min(found)) / 2:.2f}" if len(found) > 1 else ""
            cells.append(f"{sum(found) / len(found):.2f}{spread}" if found else "-")
        lines.append(" | ".join([str(method), *cells]))
    return "\n".join(lines)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model")
    words.add_argument("data")
    words.add_argument("out", type=Path)
    words.add_argument("--methods", nargs="+", default=METHODS, help=f"of {', '.join(METHODS)} and others like them")
    words.add_argument("--sparsities", nargs="+", type=float, default=[95, 99, 99.5], help="%% of the weights")
    words.add_argument("--seeds", nargs="+", type=int, default=[0])
    words.add_argument("--epochs", type=int, default=14)
    words.add_argument("--batch-size", type=int, default=128)
    words.add_argument("--lr", type=float, default=0.1)
    words.add_argument("--side-by-side", type=int, default=1, help="runs at once")
    words.add_argument("--settings", nargs="*", default=[], help="of the methods in --tuned, such as rounds=20")
    words.add_argument("--tuned", nargs="*", default=["iterative-snip", "force"])
    words.add_argument("--set", action="append", default=[], help="more of the recipe, for every run")
    given = words.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    runs = [Run(m, share, seed) for share in given.sparsities for seed in given.seeds for m in given.methods]
    rows = []
    with ThreadPoolExecutor(given.side_by_side) as pool, (given.out / "runs.jsonl").open("w") as journal:
        for row in pool.map(lambda run: perform(run, given), runs):
            print(json.dumps(row), file=journal, flush=True)
            print(json.dumps(row), flush=True)
            rows.append(row)
    print(table(rows))


if __name__ == "__main__":
    main()
