"""TPP against L1 at the same ratio, retraining rates and total epochs: regularising epochs count.

    python tests/benchmarks/tpp_against_l1.py resnet56.pt path/to/cifar10 out --ratios 50% 90% --seeds 0 1

The first convolution of every block is cut. L1 retrains for as long as TPP regularises and retrains together, along the
same course of learning rates. Two more answers to the same question cost no regularisation: L1 with the dense network
as teacher, and L1 whose layers lose what one ranking of all filters says, down to the same multiply-adds. Runs go side
by side, each on one thread; a run whose report is there already is not repeated. One line a run: accuracy at the end,
after removal, trainability accuracy and mean Jacobian singular value on the way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

KINDS = ("tpp", "l1", "l1-distilled", "l1-global")
MULTISTEP = "retrain.schedule={{name: multistep, milestones: [{first}, {second}], gamma: 0.1}}"


@dataclass(frozen=True)
class Run:
    kind: str
    ratio: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.ratio.rstrip('%')}-{self.seed}"

    def overrides(self, given: argparse.Namespace) -> list[str]:
        """The retraining falls tenfold at half and at three quarters, as 120 epochs do at 60 and 90."""
        epochs = given.retrain if self.kind == "tpp" else given.regularise + given.retrain
        target = f"prune.target={{ratio: {self.ratio}}}"
        own = {
            "tpp": [target, f"prune.tpp.epochs={given.regularise}"],
            "l1": [target],
            "l1-distilled": [target, "retrain.distill={teacher: dense}"],
            "l1-global": ["prune.scope=global"],
        }[self.kind]
        if self.kind == "l1-global":
            plan = ["plan", given.checkpoint, "-r", "l1-cifar10", "--data", given.data, "--json"]
            planned = compress(plan, [target])
            own.append(f"prune.target={{macs: {1 / json.loads(planned)['ratios']['macs']:.6f}}}")
        schedule = MULTISTEP.format(first=epochs / 2, second=epochs * 3 / 4)
        return [f"seed={self.seed}", f"retrain.epochs={epochs}", f"retrain.optimizer.lr={given.lr}", schedule, *own]


def compress(command: list[str], overrides: list[str]) -> str:
    """What the command writes to stdout, on one thread and without measuring latency."""
    words = [word for each in ("bench.target=none", *overrides) for word in ("--set", each)]
    one = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    full = [sys.executable, "-m", "compressor", *command, *words]
    done = subprocess.run(full, env=one, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(full)}: {done.stderr.strip()}")
    return done.stdout


def perform(run: Run, given: argparse.Namespace) -> dict:
    out = given.out / run.name
    if not (out / "report.json").exists():
        recipe = "tpp-cifar10" if run.kind == "tpp" else "l1-cifar10"
        command = [given.checkpoint, "-r", recipe, "--data", given.data, "-o", str(out), "-q", "--resume"]
        compress(command, run.overrides(given))
    return json.loads((out / "report.json").read_text())


def line(run: Run, report: dict) -> str:
    steps, before = report["accuracy_steps"], report["isometry"]
    cells = [
        run.name,
        f"{report['ratios']['macs']:.2f}x",
        f"{steps['dense']:.2f}",
        f"{steps['after surgery']:.2f}",
        f"{report['trainability']['accuracy']:.2f}",
        f"{steps['after retraining']:.2f}",
        " ".join(f"{before[stage]['mean']:.3g}" for stage in ("dense", "after surgery", "after retraining")),
        f"{sum(report['seconds'].values()) / 60:.0f}",
    ]
    return " | ".join(cells)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("checkpoint")
    words.add_argument("data")
    words.add_argument("out", type=Path)
    words.add_argument("--ratios", nargs="+", default=["90%"])
    words.add_argument("--seeds", nargs="+", type=int, default=[0])
    words.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    words.add_argument("--regularise", type=int, default=4, help="epochs")
    words.add_argument("--retrain", type=int, default=6, help="epochs")
    words.add_argument("--lr", type=float, default=0.01, help="of retraining")
    words.add_argument("--side-by-side", type=int, default=2, help="runs at once")
    given = words.parse_args()
    runs = [Run(kind, ratio, seed) for ratio in given.ratios for seed in given.seeds for kind in given.kinds]
    print("run | MACs | dense % | after surgery % | trainability % | end % | Jacobian dense, cut, end | minutes")
    with ThreadPoolExecutor(given.side_by_side) as pool:
        for run, report in zip(runs, pool.map(lambda run: perform(run, given), runs), strict=True):
            print(line(run, report), flush=True)


if __name__ == "__main__":
    main()
