"""Load the model, find which channels belong together, run the recipe's steps, export both models, compare them on the
device, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from compressor.bench.device_timer import latency_probe
from compressor.bench.open_device import check_device, open_device
from compressor.bench.runner.energy import energy_joules
from compressor.bench.width_multiples import choose_width_multiple
from compressor.core import EventSink
from compressor.output.exports import compare_on_device, export_models
from compressor.output.folder import CHECKPOINTS, JOURNAL, staged_output
from compressor.output.gates import check_gates
from compressor.output.write import write_outputs
from compressor.recipe import Recipe
from compressor.recipe.build_steps import build_steps
from compressor.recipe.inputs import load_inputs
from compressor.report.findings import Report
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.run import check_feasible, initial_state, run_step
from compressor.training.checkpoint import Checkpoints, run_fingerprint
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
    """Compress a model, and leave model.onnx, its proofs and the report in a folder.

    Args:
        source: The model: a checkpoint, a folder or a name.
        recipe: How to compress it.
        out: The folder, which appears when the run is done.
        data: The option `--data`.
        resume: Whether to continue an interrupted run.
        force: Whether to replace the folder.
        trust_pickle: Whether to unpickle files that may contain code.
        emit: Receives what happens.
        trainer: Trains with several processes; None = this one trains.
        targets: Another targets.yaml.

    Returns:
        The report.

    Raises:
        CompressorError: `error.report` holds the report where the output was kept all the same.
    """
    device = open_device(recipe.bench.target, recipe.bench.threads, file=targets)
    with staged_output(out, force=force, resume=resume) as folder, RunLog(folder / JOURNAL, emit) as log:
        check_device(device, log)
        model, images = load_inputs(source, recipe, data, log, trust_pickle=trust_pickle, needs_data=True)
        round_to = choose_width_multiple(recipe, device, log)
        fingerprint = run_fingerprint(recipe.training_settings(), round_to, model, images)
        checkpoints = Checkpoints(folder / CHECKPOINTS, fingerprint)
        probe = latency_probe(recipe, device, model, log)
        context = Context(images, recipe.seed, log, checkpoints, partial(trainer or train, joules=energy_joules), probe)
        steps = build_steps(recipe, round_to, retrain=images is not None)
        baseline = state = initial_state(model, context, trained=recipe.method.trained)
        check_feasible(steps, state, context)
        for step in steps:
            state = run_step(step, state, context)
        exports = export_models(baseline, state, recipe, images, folder, log)
        latency = compare_on_device(exports, recipe, device, images, log)
        report = write_outputs(recipe, baseline, state, exports, latency, folder, log)
        checkpoints.delete()
    return check_gates(report)
