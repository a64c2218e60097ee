"""Load the model, run the recipe's steps, export both models, compare them on the device, report, verify the files."""

from __future__ import annotations

from pathlib import Path

from compressor.bench.device_timer import latency_probe, timing_conditions
from compressor.bench.metered_training import metered
from compressor.bench.open_device import check_device, open_device
from compressor.bench.width_multiples import choose_width_multiple
from compressor.commands.verify import require_proven
from compressor.core import LoadedModel
from compressor.output.exports import compare_on_device, export_models
from compressor.output.folder import CHECKPOINTS, JOURNAL, staged_output
from compressor.output.gates import check_gates
from compressor.output.write import write_outputs
from compressor.recipe import Recipe
from compressor.recipe.build_steps import steps_of_run
from compressor.recipe.inputs import load_inputs
from compressor.report.findings import Report
from compressor.run_log import RunLog
from compressor.run_options import RunOptions
from compressor.steps.context import Context
from compressor.steps.narrow_layers import warn_of_narrow_layers
from compressor.steps.run import check_feasible, compares_answers, initial_state, run_step
from compressor.training.run_fingerprint import run_fingerprint
from compressor.training.training_checkpoint import Checkpoints


def compress_model(source: str | LoadedModel, recipe: Recipe, out: Path, options: RunOptions) -> Report:
    """Compress a model, and leave model.onnx, its proofs and the report in a folder.

    Args:
        source: The model: a checkpoint, a folder or a name; or the model itself.
        recipe: How to compress it.
        out: The folder, which appears when the run is done.
        options: Data, and how to run.

    Returns:
        The report; a CompressorError that is raised instead holds it where the output was kept all the same.
    """
    device = open_device(recipe.bench.target, recipe.bench.threads, file=options.devices_file)
    staged = staged_output(out, force=options.force, resume=options.resume)
    with staged as folder, RunLog(folder / JOURNAL, options.emit) as log:
        check_device(device, log)  # an unreachable device fails now, not after the training
        model, data = load_inputs(source, recipe, options.data, log, trust_pickle=options.trust_pickle, needs_data=True)
        round_to = choose_width_multiple(recipe, device, log)
        steps = steps_of_run(recipe, round_to, model, data)
        conditions = timing_conditions(recipe, device)
        fingerprint = run_fingerprint(recipe.training_settings(), round_to, model, data, conditions)
        checkpoints = Checkpoints(folder / CHECKPOINTS, fingerprint)
        probe, compares = latency_probe(recipe, device, model, log), compares_answers(steps, data)
        context = Context(
            data,
            recipe.seed,
            log,
            checkpoints,
            train=metered(options.trainer),
            latency_probe=probe,
            compares_answers=compares,
        )
        baseline = state = initial_state(model, context, trained=recipe.method.trained)
        check_feasible(steps, state, context)
        for step in steps:
            state = run_step(step, state, context)
        warn_of_narrow_layers(state, recipe.pruning_target(round_to), log)
        exports = export_models(baseline, state, recipe, data, folder, log)
        latency = compare_on_device(exports, state.model, recipe, device, data, log)
        report = write_outputs(recipe, baseline, state, exports, latency, folder, log)
        require_proven(folder, state.model.spec, options.emit)
        checkpoints.delete()
    return check_gates(report)
