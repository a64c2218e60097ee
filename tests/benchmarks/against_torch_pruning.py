"""Accuracy at equal MACs and equal epochs, beside Torch-Pruning.

    python tests/benchmarks/against_torch_pruning.py resnet56.pt path/to/cifar10 rows.jsonl --macs 50% 30% --epochs 0 5

Torch-Pruning chooses and slices by L1, Taylor or Hessian, locally or globally, and then gets new BatchNorm statistics
without training; Taylor and Hessian read labels. Ours is the recipe `minutes`, which reads none; `ours/refined` refines
on all images of an epoch, up to four times, instead of on 1,024. Every model is then trained by the same step on the
same images: on labels, or on the dense model's answers. Torch-Pruning 1.6.1 leaves networks that do not run where
shortcuts pad channels (option A), so that it gets the first convolution of every block alone there: `--frozen` names
the other layers. A row that the file has already is not computed again. Accuracy is that of all test images. MACs are
counted by one function for all models.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from itertools import product
from pathlib import Path

import torch_pruning as tp
from recovery import trained, training_subset
from rows import collected, spread
from torch import nn
from torch.nn.functional import cross_entropy

from compressor.graph.cost import count_cost
from compressor.recipe import Recipe, read_recipe
from compressor.recipe.build_steps import steps_of_run
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.recalibrate import Recalibrate
from compressor.steps.run import initial_state
from compressor.steps.state import PruningState
from compressor.training.evaluate import evaluate
from compressor.training.training_checkpoint import Checkpoints

THEIRS = tuple(f"{name}/{scope}" for name in ("l1", "taylor", "hessian") for scope in ("local", "global"))
OURS = ("ours", "ours/refined")
STEPS = 60  # of Torch-Pruning towards nothing; it stops at the first that reaches the target
SAMPLES = 1024  # of new BatchNorm statistics
GRADIENT_SAMPLES = 256  # of every step of Taylor; Hessian reads 64
LEARNING_RATES = {"labels": 0.01, "answers": 0.03}


class Bench:
    """One network with its data, and its pruned models before training."""

    def __init__(self, checkpoint: str, data: str, images: int, frozen: list[str]) -> None:
        self.frozen = frozen
        log = RunLog()
        model, loaded = load_inputs(checkpoint, _recipe("50%"), data, log, trust_pickle=False, needs_data=True)
        self.data = training_subset(loaded, images)
        self.context = Context(self.data, 0, log, Checkpoints(None, "none"))
        self.model, self.start = model, initial_state(model, replace(self.context, data=None))
        self.inputs = self.start.example_inputs()
        self.pruned = cache(self._pruned)

    def _pruned(self, choice: str, macs: str) -> tuple[PruningState, float]:
        begin = time.perf_counter()
        state = self.start
        if choice in THEIRS:
            module = self._torch_pruning(*choice.split("/"), float(macs.rstrip("%")) / 100)
            state = Recalibrate(SAMPLES).run(state.with_module(module), self.context)
        else:
            with tempfile.TemporaryDirectory() as folder:
                context = replace(self.context, checkpoints=Checkpoints(Path(folder), ""))
                refine = [f"reconstruct.refine={{images: {self.data.train_size}, work: 20}}"] if "/" in choice else []
                for step in steps_of_run(_recipe(macs, *refine), 1, self.model, self.data):
                    state = step.run(state, context)
        return state, time.perf_counter() - begin

    def _torch_pruning(self, criterion: str, scope: str, share: float) -> nn.Module:
        module = copy.deepcopy(self.model.module).eval()
        target = share * count_cost(module, *self.inputs).macs
        importances = {
            "l1": tp.importance.GroupMagnitudeImportance(p=1),
            "taylor": tp.importance.GroupTaylorImportance(),
        }
        importance = importances.get(criterion) or tp.importance.GroupHessianImportance()
        heads = [
            layer
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) or any(fnmatch(name, glob) for glob in self.frozen)
        ]
        pruner = tp.BasePruner(
            module, self.inputs, importance, global_pruning=scope == "global", pruning_ratio=0.95,
            iterative_steps=STEPS, ignored_layers=heads,
        )  # fmt: skip
        larger = module
        while count_cost(module, *self.inputs).macs > target:
            larger = copy.deepcopy(module)
            self._accumulate(module, importance)
            pruner.step()
        # One step may remove a channel of every layer: the network before it is taken where this one is far below.
        return module if count_cost(module, *self.inputs).macs > 0.99 * target else larger

    def _accumulate(self, module: nn.Module, importance: object) -> None:
        """Gradients that Taylor and Hessian read: of the sum over samples, and of every sample."""
        module.zero_grad()
        if isinstance(importance, tp.importance.GroupHessianImportance):
            importance.zero_grad()
            images, labels = next(self.data.sample_batches(64, images=64))
            for loss in cross_entropy(module(images), labels, reduction="none"):
                module.zero_grad()
                loss.backward(retain_graph=True)
                importance.accumulate_grad(module)
        elif isinstance(importance, tp.importance.GroupTaylorImportance):
            images, labels = next(self.data.sample_batches(GRADIENT_SAMPLES, images=GRADIENT_SAMPLES))
            cross_entropy(module(images), labels).backward()

    def run(self, choice: str, macs: str, epochs: int, learns: str, seed: int) -> dict[str, object]:
        """Accuracy, share of the MACs and seconds of one row."""
        state, seconds = self.pruned(choice, macs)
        if epochs:
            own = ["retrain.distill=null"] if learns == "labels" else []
            own += [f"retrain.epochs={epochs}", f"retrain.optimizer.lr={LEARNING_RATES[learns]}"]
            state, spent = trained(read_recipe("auto", own), state, replace(self.context, seed=seed))
            seconds += spent
        module = state.model.module
        share = count_cost(module, *self.inputs).macs / count_cost(self.start.baseline.module, *self.inputs).macs
        accuracy = evaluate(module, self.data.val_batches(256), self.data.task.metric)
        return {"accuracy": accuracy, "share": round(100 * share, 1), "seconds": round(seconds, 1)}


def _recipe(macs: str, *own: str) -> Recipe:
    return read_recipe("minutes", [f"prune.target={{macs: {macs}}}", "prune.round_to=1", "bench.target=none", *own])


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("checkpoint")
    words.add_argument("data")
    words.add_argument("rows", type=Path)
    words.add_argument("--choices", nargs="+", default=[*OURS, *THEIRS], choices=[*OURS, *THEIRS])
    words.add_argument("--macs", nargs="+", default=["50%", "30%"])
    words.add_argument("--epochs", nargs="+", type=int, default=[0, 5])
    words.add_argument("--learns", nargs="+", choices=LEARNING_RATES, default=list(LEARNING_RATES))
    words.add_argument("--seeds", nargs="+", type=int, default=[0])
    words.add_argument("--images", type=int, default=5000, help="of an epoch")
    words.add_argument("--frozen", nargs="*", default=["conv1", "*.conv2"], help="globs of layers, for Torch-Pruning")
    given = words.parse_args()
    bench = Bench(given.checkpoint, given.data, given.images, given.frozen)
    kinds = product(given.macs, given.choices, given.epochs, given.learns, given.seeds)
    names = ("macs", "choice", "epochs", "learns", "seed")
    keys = [dict(zip(names, kind if kind[2] else (*kind[:3], "-", 0), strict=True)) for kind in kinds]
    rows = collected(given.rows, keys, bench.run)
    print("MACs | choice | epochs | learns from | accuracy % | share of MACs % | seconds")
    for kind in dict.fromkeys(tuple(row[name] for name in names[:-1]) for row in rows):
        same = [row for row in rows if all(row[name] == value for name, value in zip(names, kind, strict=False))]
        values = [spread([row[key] for row in same]) for key in ("accuracy", "share", "seconds")]
        print(" | ".join([*map(str, kind), *values]))


if __name__ == "__main__":
    main()
