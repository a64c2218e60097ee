"""Load the model, find which channels belong together, do the recipe's steps, prove the slim model equals the masked
dense one, export it, measure both on the target device, report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from compressor.bench.open_device import open_device
from compressor.bench.runner.energy import energy_joules
from compressor.core import EventSink
from compressor.output.exports import compare_on_device, export_models
from compressor.output.folder import CHECKPOINTS, JOURNAL, staged_output
from compressor.output.gates import check_gates
from compressor.output.write import write_outputs
from compressor.recipe import Recipe
from compressor.report.findings import Report
from compressor.run_log import RunLog
from compressor.run_setup import (
    build_steps,
    check_device,
    latency_probe,
    load_recipe_model,
    open_recipe_data,
    resize_head,
    resumed_widths,
    run_fingerprint,
    width_multiple,
)
from compressor.steps import initial_state, run_step
from compressor.steps.feasibility import check_feasible
from compressor.steps.state import Context
from compressor.training.loop import TrainResult, train


def compress(
    source: str,
    recipe: Recipe,
    out: Path,
    *,
    data: str | None,
    resume: bool,
    force: bool,
    trust_pickle: bool,
    emit: EventSink,
    trainer: Callable[..., TrainResult] | None = None,
    targets: Path | None = None,
) -> Report:
    """Compress the model `source` names as `recipe` says; leave model.onnx, its proofs and the report in `out`.

    `trainer` does what `training.loop.train` does, with several processes.
    Raises every class of errors.py; `error.report` holds the report where the artefacts were kept all the same.
    """
    target = open_device(recipe.bench.target, recipe.bench.threads, file=targets)
    with staged_output(out, force=force, resume=resume) as folder, RunLog(folder / JOURNAL, emit) as journal:
        dense = load_recipe_model(source, recipe, trust_pickle, journal)
        check_device(target, journal)
        images = open_recipe_data(recipe, data, dense, journal)
        dense = resize_head(dense, images, journal)
        round_to = width_multiple(recipe, target, journal)
        identity = run_fingerprint(recipe, round_to, dense, images)
        watch, found = latency_probe(recipe, target, dense, journal), resumed_widths(journal)
        state = folder / CHECKPOINTS
        metered = partial(trainer or train, joules=energy_joules)
        around = Context(images, recipe.seed, journal, state, identity, metered, watch, found)
        start = work = initial_state(dense, around, trained=recipe.method.trained)
        performed = build_steps(recipe, round_to, retrain=images is not None)
        check_feasible(performed, work, around)
        for step in performed:
            work = run_step(step, work, around)
        exports = export_models(start, work, recipe, images, folder, journal)
        comparisons = compare_on_device(exports, recipe, target, images, journal)
        report = write_outputs(recipe, start, work, exports, comparisons, folder, journal)
        shutil.rmtree(around.checkpoints, ignore_errors=True)
    return check_gates(report)
