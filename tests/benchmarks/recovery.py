"""Recovery after pruning: statistics alone, reconstruction, and training from either, with labels and without.

    python tests/benchmarks/recovery.py resnet20.pt path/to/cifar10 rows.jsonl --ratios 50% 70% --epochs 0 1 5

The first convolution of every block loses a share of its channels. Every model is then recovered by new BatchNorm
statistics or by reconstruction, from 1,024 images without labels, and trained for some epochs of `--images` images: on
the dense model's answers alone as the recipe `auto` does, or on labels alone. A row that the file has already is not
computed again. Accuracy and divergence are those of all test images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import torch
from rows import collected, spread

from compressor.agreement import measure_agreement
from compressor.criteria import channel_criteria
from compressor.data.image_data import ImageData
from compressor.recipe import Recipe, read_recipe
from compressor.recipe.build_steps import steps_of_run
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.recalibrate import Recalibrate
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.refine import Refine
from compressor.steps.run import initial_state
from compressor.steps.state import PruningState
from compressor.training.evaluate import evaluate
from compressor.training.training_checkpoint import Checkpoints

FIRST_OF_BLOCK = 'prune.layers=[{match: "*conv2", freeze: true}, {match: "conv1", freeze: true}]'
IMAGES = 1024  # for statistics and reconstruction
RECOVERIES = ("recalibrated", "reconstructed", "refined")
LABELS_LR = 0.01  # of training on labels alone


class Bench:
    """One network with its data, and its recovered models before training."""

    def __init__(self, checkpoint: str, data: str, images: int) -> None:
        log = RunLog()
        model, loaded = load_inputs(checkpoint, _recipe("50%", "l1"), data, log, trust_pickle=False, needs_data=True)
        self.data = training_subset(loaded, images)
        self.context = Context(self.data, 0, log, Checkpoints(None, "none"))
        self.model, self.start = model, initial_state(model, replace(self.context, data=None))
        self.recovered = cache(self._recovered)

    def _recovered(self, ratio: str, criterion: str, recovery: str) -> tuple[PruningState, float]:
        state = self.start
        for step in steps_of_run(_recipe(ratio, criterion), 1, self.model, self.data):
            if isinstance(step, Reconstruct):
                break
            state = step.run(state, self.context)
        begin = time.perf_counter()
        steps = [Recalibrate(IMAGES)] if recovery == "recalibrated" else [Reconstruct(IMAGES)]
        for step in [*steps, Refine(IMAGES)] if recovery == "refined" else steps:
            state = step.run(state, self.context)
        return state, time.perf_counter() - begin

    def run(self, ratio: str, criterion: str, recovery: str, epochs: int, labels: int, seed: int) -> dict[str, object]:
        """Accuracy, divergence and seconds of one row."""
        state, seconds = self.recovered(ratio, criterion, recovery)
        if epochs:
            own = [f"retrain.epochs={epochs}"]
            own += ["retrain.distill=null", f"retrain.optimizer.lr={LABELS_LR}"] if labels else []
            state, spent = trained(_recipe(ratio, criterion, *own), state, replace(self.context, seed=seed))
            seconds += spent
        module = state.model.module
        accuracy = evaluate(module, self.data.val_batches(256), self.data.task.metric)
        batches = (images for images, _ in self.data.val_batches(256))
        divergence = measure_agreement(self.start.baseline.module, module, batches).divergence
        return {"accuracy": accuracy, "kl": divergence, "seconds": round(seconds, 1)}


def trained(recipe: Recipe, state: PruningState, context: Context) -> tuple[PruningState, float]:
    """The state after the recipe's retraining, and its seconds."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        state = recipe.train_step().run(state, replace(context, checkpoints=Checkpoints(Path(folder), "none")))
    return state, time.perf_counter() - begin


def _recipe(ratio: str, criterion: str, *own: str) -> Recipe:
    target = f"prune.target={{ratio: {ratio}}}"
    uniform = ("prune.scope=local", "prune.rounds=1", "prune.round_to=1", FIRST_OF_BLOCK, target)
    return read_recipe("auto", [*uniform, f"prune.criterion={criterion}", "bench.target=none", *own])


def training_subset(data: ImageData, images: int) -> ImageData:
    """The data with so many of its training images, always the same ones."""
    rows = torch.randperm(len(data.train.names), generator=torch.Generator().manual_seed(0))[:images]
    split, names = data.train, [data.train.names[row] for row in rows.tolist()]
    return replace(data, train=replace(split, images=split.images[rows], targets=split.targets[rows], names=names))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("checkpoint")
    words.add_argument("data")
    words.add_argument("rows", type=Path)
    words.add_argument("--ratios", nargs="+", default=["30%", "50%", "70%", "90%"])
    words.add_argument("--criteria", nargs="+", default=[name for name in ("l1", "obs") if name in channel_criteria()])
    words.add_argument("--recoveries", nargs="+", choices=RECOVERIES, default=RECOVERIES)
    words.add_argument("--epochs", nargs="+", type=int, default=[0])
    words.add_argument("--seeds", nargs="+", type=int, default=[0])
    words.add_argument("--labels", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    words.add_argument("--images", type=int, default=5000, help="of an epoch")
    given = words.parse_args()
    bench = Bench(given.checkpoint, given.data, given.images)
    kinds = list(product(given.ratios, given.criteria, given.recoveries, given.epochs, given.labels, given.seeds))
    names = ("ratio", "criterion", "recovery", "epochs", "labels", "seed")
    keys = [dict(zip(names, kind if kind[3] else (*kind[:4], 0, 0), strict=True)) for kind in kinds]
    rows = collected(given.rows, keys, bench.run)
    print("ratio | criterion | recovery | epochs | learns from | accuracy % | KL | seconds")
    for kind in dict.fromkeys(tuple(row[name] for name in names[:-1]) for row in rows):
        same = [row for row in rows if all(row[name] == value for name, value in zip(names, kind, strict=False))]
        values = [spread([row[key] for row in same]) for key in ("accuracy", "kl", "seconds")]
        *setting, epochs, labels = kind
        teacher = ("labels" if labels else "dense answers") if epochs else "-"
        print(" | ".join([*setting, str(epochs), teacher, *values]))


if __name__ == "__main__":
    main()
