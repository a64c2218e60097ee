"""Retraining schedules after L1, at equal epochs, with and without the dense model as a teacher.

    python tests/benchmarks/schedules.py resnet20.pt path/to/cifar10 --out results.jsonl --ratios 50% 90% --seeds 0 1 2

The first convolution of every block is cut, once for each ratio; every retraining starts from there. Lengths are a
tenth of Le and Hua's (arXiv:2105.03193): the original training is taken for 16 epochs with drops at 8 and 12,
retraining lasts 8. One JSON line a run, accuracy on the test set after the last epoch; runs that are in the file are
not repeated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from rows import collected, spread

from compressor.recipe import Recipe, read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.run import initial_state, run_step
from compressor.steps.state import PruningState
from compressor.training.training_checkpoint import Checkpoints

ORIGINAL = "original: {epochs: 16, milestones: [8, 12], gamma: 0.1}"
SCHEDULES = {
    "ft": f"{{name: ft, {ORIGINAL}}}",
    "lrw": f"{{name: lrw, {ORIGINAL}}}",
    "slr": f"{{name: slr, {ORIGINAL}}}",
    "clr": "{name: clr}",
}
SETTINGS = ["retrain.optimizer={name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 1.0e-4}", "bench.target=none"]


def recipe(ratio: str, schedule: str, distilled: bool, seed: int, epochs: int) -> Recipe:
    teacher = ["retrain.distill={teacher: dense}"] if distilled else []
    own = [f"prune.target.ratio={ratio}", f"retrain.schedule={SCHEDULES[schedule]}", f"retrain.epochs={epochs}"]
    return read_recipe("l1-cifar10", [*SETTINGS, *own, *teacher, f"seed={seed}"])


def silent(event: str, fields: Mapping[str, object]) -> None:
    """Nobody listens."""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("checkpoint")
    words.add_argument("data")
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--ratios", nargs="+", default=["50%", "90%"])
    words.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=SCHEDULES)
    words.add_argument("--seeds", nargs="+", type=int, default=[0])
    words.add_argument("--distilled", nargs="+", type=int, default=[0, 1], choices=[0, 1])
    words.add_argument("--epochs", type=int, default=8)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as folder, RunLog(Path(folder) / "run.jsonl", silent) as journal:
        first = recipe(given.ratios[0], "ft", False, 0, given.epochs)
        model, data = load_inputs(given.checkpoint, first, given.data, journal, trust_pickle=False, needs_data=True)
        cut: dict[str, PruningState] = {}

        def around(seed: int) -> Context:
            return Context(data, seed, RunLog(), Checkpoints(Path(folder) / str(time.monotonic_ns()), ""))

        def run(ratio: str, schedule: str, distilled: int, seed: int) -> Mapping[str, float]:
            asked = recipe(ratio, schedule, bool(distilled), seed, given.epochs)
            *surgery, retraining = build_steps(asked, 1, retrain=True)
            if ratio not in cut:
                cut[ratio] = initial_state(model, around(0))
                for step in surgery:
                    cut[ratio] = run_step(step, cut[ratio], around(0))
            return run_step(retraining, cut[ratio], around(seed)).quality

        keys = (
            {"ratio": ratio, "schedule": schedule, "distilled": distilled, "seed": seed}
            for seed, distilled, ratio, schedule in product(given.seeds, given.distilled, given.ratios, given.schedules)
        )
        table(collected(given.out, keys, run))


def table(rows: list[dict]) -> None:
    """Mean and sample standard deviation over seeds of the accuracy at the end."""
    found = defaultdict(list)
    for row in rows:
        found[row["ratio"], row["schedule"], row["distilled"]].append(row["after retraining"])
    print("| ratio | schedule | labels only | with the dense model as teacher |\n|---|---|---|---|")
    for ratio, schedule in dict.fromkeys(key[:2] for key in found):
        cells = [spread(found[ratio, schedule, distilled]) for distilled in (0, 1)]
        print(f"| {ratio} | {schedule} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
