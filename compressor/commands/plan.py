"""What a recipe would do and bring, without training: for its own target, or for several in turn."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.bench.device.target import DeviceTarget
from compressor.bench.open_device import open_device
from compressor.budget.memory import memory_of
from compressor.commands.plan_estimates import (
    accuracy_preview,
    expected_latency,
    latency_bottlenecks,
    log_latency,
    lower_bound,
    recommendation,
    retained_l1,
)
from compressor.core import (
    Data,
    EventSink,
    MaskUnstructured,
    PermuteChannels,
    PrunePlan,
    RemoveDeadChannels,
    SelectChannels,
    Step,
    Train,
)
from compressor.errors import TargetNotReached
from compressor.graph.cost import count_cost
from compressor.graph.prunable_share import prunable_shares
from compressor.output import nm_report as zeros
from compressor.output import unstructured_report as masks
from compressor.recipe import Recipe
from compressor.report.schema_verbs import Pareto, ParetoPoint, Plan, Rates
from compressor.report.widths import frozen_coverage
from compressor.run_data import find_recipe_data
from compressor.run_log import RunLog
from compressor.run_setup import (
    build_steps,
    latency_probe,
    load_recipe_model,
    open_recipe_data,
    resize_head,
    width_multiple,
)
from compressor.steps import initial_state, run_step
from compressor.steps.latency_search import DeviceSession, OpenProbe
from compressor.steps.state import Context, PruningState, example_inputs

RATES = 200  # places a learning-rate schedule is asked at, so that a short training has a smooth curve too


def plan_run(
    source: str, recipe: Recipe, *, data: str | None, trust_pickle: bool, emit: EventSink, targets: Path | None = None
) -> Plan:
    """The cut is made on a copy and timed on the target.

    A target of latency is answered by the cost surface alone; what meets other targets is measured.
    """
    with _prepared(source, recipe, data=data, trust_pickle=trust_pickle, emit=emit, targets=targets) as ready:
        return _planned(ready, recipe)


def plan_several(
    source: str,
    recipes: Mapping[str, Recipe],
    *,
    data: str | None,
    trust_pickle: bool,
    emit: EventSink,
    targets: Path | None = None,
) -> Pareto:
    """A plan for each of several recipes that differ in the share or number they ask for; `recipes`: by what it is.

    The model is analysed once, and its layers are timed once. Raises TargetNotReached where none can be met.
    """
    first = next(iter(recipes.values()))
    with _prepared(source, first, data=data, trust_pickle=trust_pickle, emit=emit, targets=targets) as ready:
        points, missed = [], []
        for asked, recipe in recipes.items():
            try:
                points.append(_point(asked, _planned(ready, recipe)))
            except TargetNotReached as error:
                missed.append(error)
                points.append(_out_of_reach(asked, error.problem))
        if len(missed) == len(points):
            raise missed[0]
        dense = ready.start.model
        cost = count_cost(dense.module, *example_inputs(dense))
        return {
            "model": dense.name,
            "method": first.prune.method,
            "device": None if ready.target is None else ready.target.name,
            "dense": {"params": cost.params, "macs": cost.macs},
            "points": points,
        }


@dataclass(frozen=True, slots=True)
class _Ready:
    """What every plan for a model begins with."""

    start: PruningState
    around: Context
    target: DeviceTarget | None
    clock: DeviceSession | None  # of the target, which is held
    round_to: int
    images: Data | None
    journal: RunLog


@contextmanager
def _prepared(
    source: str, recipe: Recipe, *, data: str | None, trust_pickle: bool, emit: EventSink, targets: Path | None
) -> Iterator[_Ready]:
    target = open_device(recipe.bench.target, recipe.bench.threads, file=targets)
    retrain = find_recipe_data(recipe, data) is not None
    with tempfile.TemporaryDirectory() as name, RunLog(Path(name) / "run.jsonl", emit) as journal:
        dense = load_recipe_model(source, recipe, trust_pickle, journal)
        images = open_recipe_data(recipe, data, dense, journal) if retrain else None
        dense = resize_head(dense, images, journal)
        around = Context(None, recipe.seed, journal, Path(name) / "unused", "")
        start = initial_state(dense, around)
        round_to = width_multiple(recipe, target, journal)
        watch = latency_probe(recipe, target, dense, journal, rounds=0)
        with nullcontext() if watch is None else watch.started() as clock:
            around = replace(around, stopwatch=None if clock is None else OpenProbe(clock, rounds=0))
            yield _Ready(start, around, target, clock, round_to, images, journal)


def _planned(ready: _Ready, recipe: Recipe) -> Plan:
    start, journal = ready.start, ready.journal
    work, before = start, len(journal.events)
    performed = build_steps(recipe, ready.round_to, retrain=False)
    if training := _before_choice(performed):
        found = f"channels will be chosen after {training.stage}"
        journal("note", {"text": f"{found}: here they are by the weights as they are now, and so are widths"})
    for step in performed:
        if not isinstance(
            step, Train | PermuteChannels | MaskUnstructured | RemoveDeadChannels
        ):  # order and zeros cost the same
            scored = replace(ready.around, data=ready.images) if isinstance(step, SelectChannels) else ready.around
            work = run_step(step, work, scored)
    if ready.clock is not None and not recipe.selection(ready.round_to).timed:
        log_latency(ready.clock.pair(start.model.module, work.model.module), journal)
    events, inputs = journal.events[before:], example_inputs(start.model)
    dense_cost, slim_cost = count_cost(start.model.module, *inputs), count_cost(work.model.module, *inputs)
    latency, cut = expected_latency(events), work.plan or PrunePlan({})
    planned = build_steps(recipe, ready.round_to, retrain=ready.images is not None)
    return {
        "model": start.model.name,
        "method": recipe.prune.method,
        "steps": [str(step) for step in planned],
        "target": _asked(recipe),
        "round_to": cut.round_to,
        "dense": {"params": dense_cost.params, "macs": dense_cost.macs},
        "slim": {"params": slim_cost.params, "macs": slim_cost.macs},
        "ratios": {"params": dense_cost.params / slim_cost.params, "macs": dense_cost.macs / slim_cost.macs},
        "groups": [
            {"name": each.name, "before": each.size, "after": int(cut.kept[each.name].sum())}
            for each in work.groups
            if each.name in cut.kept
        ],
        "frozen": [{"name": each.name, "reason": each.frozen} for each in work.groups if each.frozen],
        "coverage": frozen_coverage(work.groups, prunable_shares(work.groups, work.structure.cost)),
        "latency": latency,
        "memory": {
            "dense": memory_of(start.model.module, *inputs),
            "slim": memory_of(work.model.module, *inputs),
        },
        "least": lower_bound(start.structure),
        "bounds": latency_bottlenecks(events),
        "risk": None if ready.images is None else accuracy_preview(start, work, ready.images),
        "kept": retained_l1(start, work),
        "worth_it": recommendation(latency, dense_cost.macs / slim_cost.macs, work.plan is not None),
        "sparsity": masks.EXPECTED
        if recipe.method.unstructured
        else zeros.predicted_sparsity(work, None if ready.target is None else ready.target.provider),
        "schedules": [_rates(step) for step in planned if isinstance(step, Train) and step.epochs],
    }


def _before_choice(build_steps: Sequence[Step]) -> Train | None:
    """The training that channels are chosen after, if there is one."""
    first = next((step for step in build_steps if isinstance(step, Train | SelectChannels)), None)
    return first if isinstance(first, Train) and any(isinstance(step, SelectChannels) for step in build_steps) else None


def _point(asked: str, found: Plan) -> ParetoPoint:
    return {
        "asked": asked,
        "reason": None,
        "slim": found["slim"],
        "memory": found["memory"]["slim"],
        "latency": found["latency"],
        "kept": found["kept"],
        "risk": found["risk"],
    }


def _out_of_reach(asked: str, reason: str) -> ParetoPoint:
    return {
        "asked": asked, "reason": reason, "slim": None, "memory": None, "latency": None, "kept": None, "risk": None,
    }  # fmt: skip


def _asked(recipe: Recipe) -> str:
    target = recipe.prune.target
    return ", ".join(f"{key}: {value}" for key, value in target.model_dump().items()) if target else "no channels go"


def _rates(step: Train) -> Rates:
    """At whole epochs and, of shorter trainings, tenths or less; what holds at the end is what held right before it."""
    each = next(parts for parts in (1, 10, 20, 50, 100, RATES) if parts * step.epochs >= RATES)
    places = [index / each for index in range(step.epochs * each)] + [math.nextafter(step.epochs, 0)]
    rates = [(place, step.optimizer.lr * step.schedule(place)) for place in places]
    return {"step": str(step), "epochs": step.epochs, "rates": [*rates[:-1], (float(step.epochs), rates[-1][1])]}
