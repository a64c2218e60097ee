"""Masks without training and without labels: magnitude alone, with new BatchNorm statistics, and refitted.

    python tests/benchmarks/mask_refit.py resnet20.pt path/to/cifar10 rows.jsonl [--masks 2:4 10%]

2:4 masks the layers that TensorRT can use, without permuting channels; 10 % keeps the largest tenth of all
weights. Refits read 1,024 training images; `sparsegpt` and `obc` look for a mask of as many zeros first. Accuracy and
divergence are those of all test images. A row that the file has already is not computed again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

from rows import collected

from compressor.agreement import measure_agreement
from compressor.data.image_data import ImageData
from compressor.recipe import Recipe, read_recipe
from compressor.recipe.build_steps import steps_of_run
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.recalibrate import Recalibrate
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.run import initial_state
from compressor.training.evaluate import evaluate
from compressor.training.training_checkpoint import Checkpoints

RECOVERIES = ("masked", "recalibrated", "none", "sparsegpt", "obc", "both")


def recipe(mask: str, search: str) -> Recipe:
    """Mask, reconstruct, and train nothing."""
    shared = ["retrain.epochs=0", f"reconstruct={{mask_search: {search}}}", "bench.target=none"]
    if mask == "2:4":
        return read_recipe("2of4", [*shared, "prune.2of4={pattern: [2, 4], permute: false, training: fixed}"])
    return read_recipe("magnitude-u", [*shared, f"prune.target={{weights: {mask}}}"])


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("checkpoint")
    words.add_argument("data")
    words.add_argument("rows", type=Path)
    words.add_argument("--masks", nargs="+", default=["2:4", "10%"])
    words.add_argument("--recoveries", nargs="+", default=RECOVERIES, choices=RECOVERIES)
    given = words.parse_args()
    log = RunLog()
    first = recipe("2:4", "none")
    model, data = load_inputs(given.checkpoint, first, given.data, log, trust_pickle=False, needs_data=True)
    assert isinstance(data, ImageData)
    context = Context(data, 0, log, Checkpoints(None, "none"))
    start = initial_state(model, replace(context, data=None))

    def run(mask: str, recovery: str) -> dict[str, object]:
        begin, state = time.perf_counter(), start
        refits = recovery not in ("masked", "recalibrated")
        for step in steps_of_run(recipe(mask, recovery if refits else "none"), 1, model, data):
            if refits or not isinstance(step, Reconstruct):
                state = step.run(state, context)
        if recovery == "recalibrated":
            state = Recalibrate(1024).run(state, context)
        seconds, module = time.perf_counter() - begin, state.model.module
        batches = (images for images, _ in data.val_batches(256))
        divergence = measure_agreement(start.baseline.module, module, batches).divergence
        accuracy = evaluate(module, data.val_batches(256), data.task.metric)
        left = sum(int(mask.sum()) for mask in state.masks.values())
        return {"accuracy": accuracy, "kl": divergence, "left": left, "seconds": round(seconds, 1)}

    keys = [{"mask": mask, "recovery": recovery} for mask, recovery in product(given.masks, given.recoveries)]
    print("mask | recovery | accuracy % | KL | masked weights left | seconds")
    for row in collected(given.rows, keys, run):
        measured = f"{row['accuracy']:.2f} | {row['kl']:.3f} | {row['left']} | {row['seconds']}"
        print(f"{row['mask']} | {row['recovery']} | {measured}")


if __name__ == "__main__":
    main()
