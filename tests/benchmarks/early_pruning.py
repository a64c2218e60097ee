"""Channels pruned early, at the start, or never: accuracy, time and memory at equal epochs from random weights.

    python tests/benchmarks/early_pruning.py path/to/cifar10 --out results.jsonl --weights 20% 5% --seeds 0 1 2

A ResNet-18 or VGG-16 of networks.py is trained for as many epochs on one one-cycle course whatever the method; the
epochs that EarlyCroP-S takes before it prunes, half of them at most, are a part of them. `weights` is the share of the
weights of convolutions and linear layers that remains. One JSON line a run, accuracy on the test set after the last
epoch; runs that are in the file are not repeated. The table: mean and sample standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

from rows import collected, spread

from compressor.core import RETRAINING
from compressor.graph.cost import count_cost
from compressor.models.inputs.example_inputs import example_inputs
from compressor.recipe import Recipe, read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.reinitialize import Reinitialize
from compressor.steps.run import initial_state, run_step
from compressor.steps.train import Train
from compressor.training.training_checkpoint import Checkpoints

METHODS = ("dense", "random-s", "efficientconvnets", "snap", "crop-s", "cropit-s", "earlycrop-s")
NETWORKS = Path(__file__).with_name("networks.py")
EARLY = "earlycrop-s"
DENSE = "random-s"  # whose start and training are the dense network's too


def recipe(method: str, weights: str, seed: int, epochs: int, own: list[str]) -> Recipe:
    settings = [
        f"prune.target={{weights: {weights}}}",
        "model.input=[3, 32, 32]",
        "prune.round_to=1",
        f"prune.{method}.start=random",
        f"retrain.epochs={epochs}",
        "retrain.batch_size=128",
        "retrain.optimizer={name: adam, lr: 2.0e-3, weight_decay: 5.0e-5}",
        "retrain.schedule={name: onecycle}",
        "retrain.clip=10",
        "data={source: parquet, train: train.parquet, val: test.parquet, augment: cifar, "
        "mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616]}",
        "bench.target=none",
        f"seed={seed}",
    ]
    early_training = (f"epochs={epochs // 2}", "count_toward_retraining=true", "batch_size=128")
    early = [f"prune.{method}.{setting}" for setting in early_training] if method == EARLY else []
    return read_recipe(method, [*settings, *early, *own])


def run(
    network: str, method: str, weights: str, seed: int, *, epochs: int, data: str, settings: list[str]
) -> dict[str, object]:
    dense = method == "dense"
    asked = recipe(DENSE, "50%", seed, epochs, []) if dense else recipe(method, weights, seed, epochs, settings)
    with tempfile.TemporaryDirectory() as folder, RunLog(Path(folder) / "run.jsonl", lambda *_: None) as journal:
        source = f"{NETWORKS}:{network}"
        model, images = load_inputs(source, asked, data, journal, trust_pickle=False, needs_data=True)
        work = initial_state(model, around := Context(images, seed, journal, Checkpoints(Path(folder) / "state", "")))
        for step in build_steps(asked, 1, retrain=True):
            trains = isinstance(step, Train) and step.stage == RETRAINING
            if not dense or trains or isinstance(step, Reinitialize):
                work = run_step(step, work, around)
        left, whole = count_cost(work.model.module, *example_inputs(model)), work.baseline.cost
    return {
        "accuracy": work.quality["after retraining"],
        "weight_sparsity": 100 * (1 - left.weights / whole.weights),
        "node_sparsity": 100 * (1 - left.nodes / whole.nodes),
        "macs_ratio": whole.macs / left.macs,
        "trainings": [asdict(training.cost) for training in work.trainings],
        "notes": journal.notes,
    }


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data")
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--network", choices=("resnet18", "whole_resnet18", "vgg16"), default="resnet18")
    words.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    words.add_argument("--weights", nargs="+", default=["20%", "5%"], help="share that remains")
    words.add_argument("--seeds", nargs="+", type=int, default=[0])
    words.add_argument("--epochs", type=int, default=12, help="in all")
    words.add_argument("--set", action="append", default=[], help="further overrides of the recipe")
    given = words.parse_args()
    keys = (
        {"network": given.network, "method": method, "weights": "100%" if method == "dense" else weights, "seed": seed}
        for seed, weights, method in product(given.seeds, given.weights, given.methods)
    )
    table(collected(given.out, keys, partial(run, epochs=given.epochs, data=given.data, settings=given.set)))


def table(rows: list[dict]) -> None:
    """A line for each network, share and method."""
    found = defaultdict(list)
    for row in rows:
        found[row["network"], row["weights"], row["method"]].append(row)
    print("| network | weights left | method | accuracy % | nodes gone % | train s | batch ms, last | peak MB, last |")
    print("|---|---|---|---|---|---|---|---|")
    for (network, weights, method), runs in sorted(found.items()):
        last = [run["trainings"][-1] for run in runs]
        cells = [
            spread([run["accuracy"] for run in runs]),
            f"{mean(run['node_sparsity'] for run in runs):.1f}",
            f"{mean(sum(each['seconds'] for each in run['trainings']) for run in runs):.0f}",
            f"{mean(each['batch_ms'] for each in last):.1f}",
            f"{mean(each['peak_bytes'] or 0 for each in last) / 1e6:.0f}",
        ]
        print(f"| {network} | {weights} | {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
