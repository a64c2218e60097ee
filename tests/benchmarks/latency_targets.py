"""Asked against measured: latency targets on this machine, and what uniform pruning keeps at the same latency.

python tests/benchmarks/latency_targets.py torchvision:resnet50 --shares 70 50 35 [--uniform]

One line a case: asked, measured in the search, measured again by the interleaved comparison with its control, seconds
of the search (everything from the analysed model to the plan), kept L1 mass; with --uniform that of the same ratio
everywhere whose measured latency is nearest to the plan's, and with --data the accuracy of both after the same
retraining.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor.bench.compare import compare_latency
from compressor.bench.device.device import Device
from compressor.bench.device_timer import latency_probe
from compressor.budget.greedy import retained_score
from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import Comparison, PrunePlan
from compressor.criteria.magnitude import l1
from compressor.recipe import Recipe, read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.latency_probe import LatencyPair
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.surgery.removal import remove_channels
from compressor.training.training_checkpoint import Checkpoints


def case(source: str, share: float, asked: argparse.Namespace) -> dict[str, object]:
    training = [f"retrain.epochs={asked.epochs}", "retrain.schedule={name: onecycle}", f"data={asked.data_settings}"]
    recipe = read_recipe("l1", [f"prune.target={{latency: {share:.0%}}}", *(training if asked.data else [])])
    device = Device()
    with TemporaryDirectory() as name, RunLog(Path(name) / "run.jsonl", lambda _event, _fields: None) as journal:
        model, data = load_inputs(source, recipe, asked.data, journal, trust_pickle=False, needs_data=False)
        watch = latency_probe(recipe, device, model, journal)
        assert watch is not None
        start = initial_state(model, Context(None, 0, journal, Checkpoints(None, "")))
        began = time.perf_counter()
        work = run_step(
            SelectChannels(l1, recipe.pruning_target(32)), start, replace(_around(journal, name), latency_probe=watch)
        )
        seconds = time.perf_counter() - began
        rounds = [event for event in journal.events if event["event"] == "latency"]
        row: dict[str, object] = {
            "model": source,
            "asked": share,
            "rounds": [round(float(str(event["slim_ms"])) / float(str(event["dense_ms"])), 4) for event in rounds],
            "dense_ms": rounds[-1]["dense_ms"],
            "search_s": round(seconds, 1),
            "kept_mass": round(_mass(work, _planned(work)), 4),
        }
        if asked.confirm:
            found = _compared(work, Path(name), watch.export, asked.confirm)
            row |= {"measured": round(1 / found.ratio, 4) if found.ratio else None, "verdict": found.verdict.words}
            row |= {"control": found.control, "control_ci95": found.control_ci95}
        if asked.uniform:
            goal = float(str(rounds[-1]["slim_ms"])) / float(str(rounds[-1]["dense_ms"]))
            with watch.open() as clock:
                plan, pair = _uniform(work, goal, clock.measure_pair)
            row |= {"uniform_share": round(pair.slim / pair.dense, 4), "uniform_mass": round(_mass(work, plan), 4)}
            if asked.data:
                around = replace(_around(journal, name), data=data)
                row |= {"accuracy": _retrained(work, _planned(work), recipe, around)}
                row |= {"uniform_accuracy": _retrained(work, plan, recipe, around)}
    return row


def _retrained(work: PruningState, plan: PrunePlan, recipe: Recipe, around: Context) -> float:
    """Accuracy on the test set after the recipe's retraining of what the plan leaves."""
    work = replace(work, plan=plan)
    around = replace(around, checkpoints=Checkpoints(around.checkpoints.folder / str(time.monotonic_ns()), ""))
    for step in (RemoveChannels(), *build_steps(recipe, 1, retrain=True)[2:]):
        work = run_step(step, work, around)
    return work.quality["after retraining"]


def _around(journal: RunLog, name: str) -> Context:
    return Context(None, 0, journal, Checkpoints(None, ""))


def _planned(work: PruningState) -> PrunePlan:
    assert work.plan is not None
    return work.plan


def _mass(work: PruningState, plan: PrunePlan) -> float:
    return retained_score(work.baseline.groups, l1.score_channels(work.model.module, work.baseline.groups), plan.kept)


def _compared(work: PruningState, folder: Path, export: object, seconds: float) -> Comparison:
    assert callable(export)
    paths = folder / "dense.onnx", folder / "slim.onnx"
    export(work.model.module, paths[0])
    export(remove_channels(work.model.module, work.baseline.graph, _planned(work)), paths[1])
    with Device().open() as device:
        return compare_latency(device, *paths, seconds=seconds, emit=lambda _event, _fields: None)


def _uniform(work: PruningState, goal: float, pair: object) -> tuple[PrunePlan, LatencyPair]:
    """Bisect the ratio, in steps of 16 channels as the device rewards, to the same measured share of the time."""
    assert callable(pair)
    module, structure = work.model.module, work.baseline.graph
    graded = l1.score_channels(module, structure.groups)
    low, high = 0.0, 0.95
    best: tuple[float, PrunePlan, LatencyPair] | None = None
    for _ in range(7):
        ratio = (low + high) / 2
        selection = PruningTarget(ratio=ratio, round_to=16, allow_finer_rounding=True)
        plan, _ = select_channels(structure.groups, graded, selection, structure.cost, work.baseline.cost)
        found: LatencyPair = pair(module, remove_channels(module, structure, plan))
        share = found.slim / found.dense
        if best is None or abs(share - goal) < best[0]:
            best = abs(share - goal), plan, found
        low, high = (ratio, high) if share > goal else (low, ratio)
    assert best is not None
    return best[1], best[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--shares", nargs="+", type=float, default=[70, 50, 35], help="percent that may remain")
    parser.add_argument("--uniform", action="store_true")
    parser.add_argument("--confirm", type=float, default=4.0, help="seconds of the comparison; 0 = leave it out")
    parser.add_argument("--data", help="retrain both on it: a folder with train.parquet and test.parquet")
    parser.add_argument("--epochs", type=int, default=8, help="of that retraining")
    parser.add_argument(
        "--data-settings", default="{source: parquet, train: train.parquet, val: test.parquet, augment: cifar}"
    )
    asked = parser.parse_args()
    for source in asked.models:
        for share in asked.shares:
            row: Mapping[str, object] = case(source, share / 100, asked)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
