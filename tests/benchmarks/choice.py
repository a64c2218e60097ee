"""Which channels go: accuracy without training and without labels, by criterion, scope and share of the MACs.

Run: python tests/benchmarks/choice.py MODEL.pt DATA 50% l1/local obs/local obs/error ...

Every row removes channels and reconstructs from 1,024 training images without labels. Test images choose nothing.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from compressor.agreement import measure_agreement
from compressor.core import Data, LoadedModel
from compressor.recipe import read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.run import initial_state, run_step
from compressor.steps.state import PruningState
from compressor.training.evaluate import evaluate
from compressor.training.training_checkpoint import Checkpoints

DATA = "data={source: parquet, train: train.parquet, val: test.parquet, mean: [.485,.456,.406], std: [.229,.224,.225]}"


def row(start: PruningState, data: Data, share: str, choice: str) -> str:
    """Prune and reconstruct, then measure accuracy, agreement and divergence on the test images.

    Args:
        start: The dense model.
        data: Training and test images.
        share: Share of the MACs that remains.
        choice: criterion/scope, or criterion/scope/rounds.

    Returns:
        A row of the table.
    """
    criterion, scope, *rounds = choice.split("/")
    prune = f"prune={{method: l1, criterion: {criterion}, scope: {scope}, target: {{macs: {share}}}, round_to: 1"
    recipe = read_recipe("minutes", [f"{prune}, rounds: {rounds[0] if rounds else 1}}}"])
    state, begin = start, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(data, 0, RunLog(emit=_print_notes), Checkpoints(Path(folder), ""))
        for step in build_steps(recipe, 1, retrain=True, trained=True):
            state = run_step(step, state, context, evaluates=False)
    seconds = time.perf_counter() - begin
    module = state.model.module
    assert data.task is not None
    accuracy = evaluate(module, data.val_batches(256), data.task.metric)
    batches = (images for images, _ in data.val_batches(256))
    output = measure_agreement(start.model.module, module, batches, 10).outputs[0]
    predicted = ""
    if state.errors is not None and not rounds:
        predicted = f"{state.errors.divergence(state.errors.removed):.3f}"
    cells = [choice, share, f"{accuracy:.2f}", f"{100 * (output.top1 or 0):.1f}", f"{output.kl:.3f}", predicted]
    return f"| {' | '.join(cells)} | {seconds:.0f} |"


def _print_notes(event: str, fields: object) -> None:
    if event in ("note", "warning"):
        print(fields, file=sys.stderr)


def main(checkpoint: str, folder: str, share: str, *choices: str) -> None:
    """Print a table.

    Args:
        checkpoint: The dense model.
        folder: The data.
        share: Share of the MACs that remains.
        choices: Rows.
    """
    torch.set_num_threads(1)
    log = RunLog()
    recipe = read_recipe("minutes", [DATA])
    loaded: tuple[LoadedModel, Data | None] = load_inputs(
        checkpoint, recipe, folder, log, trust_pickle=False, needs_data=True
    )
    model, data = loaded
    assert data is not None
    start = initial_state(model, Context(None, 0, log, Checkpoints(None, "")))
    print("| choice | MACs | accuracy % | agreement % | divergence | predicted | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for choice in choices:
        print(row(start, data, share, choice), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
