"""Load the model, find which channels belong together, do the recipe's steps, prove the slim model equals the masked
dense one, export it, measure both on the target device, report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from compressor.artefacts.exports import export_both, measure
from compressor.artefacts.files import write
from compressor.artefacts.folder import CHECKPOINTS, JOURNAL, assembled
from compressor.core import Emit
from compressor.deploy.runner.meters import joules
from compressor.engine import begin, perform
from compressor.engine.ahead import look_ahead
from compressor.engine.work import Surroundings
from compressor.gates import close
from compressor.journal import Journal
from compressor.recipe import Recipe
from compressor.report.schema import Report
from compressor.stages import (
    find,
    fit_head,
    identify,
    load,
    open_recipe_data,
    rounding,
    settled,
    steps,
    stopwatch,
)
from compressor.targets import open_target
from compressor.training.loop import Trained, train


def compress(
    source: str,
    recipe: Recipe,
    out: Path,
    *,
    data: str | None,
    resume: bool,
    force: bool,
    trust_pickle: bool,
    emit: Emit,
    trainer: Callable[..., Trained] | None = None,
    targets: Path | None = None,
) -> Report:
    """Compress the model `source` names as `recipe` says; leave model.onnx, its proofs and the report in `out`.

    `trainer` does what `training.loop.train` does, with several processes.
    Raises every class of errors.py; `error.report` holds the report where the artefacts were kept all the same.
    """
    target = open_target(recipe.bench.target, recipe.bench.threads, file=targets)
    with assembled(out, force=force, resume=resume) as folder, Journal(folder / JOURNAL, emit) as journal:
        dense = load(source, recipe, trust_pickle, journal)
        find(target, journal)
        images = open_recipe_data(recipe, data, dense, journal)
        dense = fit_head(dense, images, journal)
        round_to = rounding(recipe, target, journal)
        identity = identify(recipe, round_to, dense, images)
        watch, found = stopwatch(recipe, target, dense, journal), settled(journal)
        state = folder / CHECKPOINTS
        metered = partial(trainer or train, joules=joules)
        around = Surroundings(images, recipe.seed, journal, state, identity, metered, watch, found)
        start = work = begin(dense, around, trained=recipe.method.trained)
        performed = steps(recipe, round_to, retrain=images is not None)
        look_ahead(performed, work, around)
        for step in performed:
            work = perform(step, work, around)
        exports = export_both(start, work, recipe, images, folder, journal)
        comparisons = measure(exports, recipe, target, images, journal)
        report = write(recipe, start, work, exports, comparisons, folder, journal)
        shutil.rmtree(around.checkpoints, ignore_errors=True)
    return close(report)
