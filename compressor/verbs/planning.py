"""What a recipe would do and bring, without training: for its own target, or for several in turn."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.artefacts import masks, zeros
from compressor.core import Choose, Data, Emit, MaskWeights, Permute, PrunePlan, RemoveDead, Step, Train
from compressor.deploy.target import Target
from compressor.engine import begin, perform
from compressor.engine.search import Clock, Running
from compressor.engine.work import Surroundings, Work, example
from compressor.errors import TargetNotReached
from compressor.graph.cost import count
from compressor.graph.coverage import held
from compressor.graph.footprint import memory_of
from compressor.journal import Journal
from compressor.recipe import Recipe
from compressor.report.schema_verbs import Pareto, ParetoPoint, Plan, Rates
from compressor.report.widths import coverage
from compressor.stages import find_recipe_data, fit_head, load, open_recipe_data, rounding, steps, stopwatch
from compressor.targets import open_target
from compressor.verbs.prospects import bounds, expected, kept_share, least, risk, tell, worth_it

RATES = 200  # places a learning-rate schedule is asked at, so that a short training has a smooth curve too


def plan(
    source: str, recipe: Recipe, *, data: str | None, trust_pickle: bool, emit: Emit, targets: Path | None = None
) -> Plan:
    """The cut is made on a copy and timed on the target.

    A target of latency is answered by the cost surface alone; what meets other targets is measured.
    """
    with _prepared(source, recipe, data=data, trust_pickle=trust_pickle, emit=emit, targets=targets) as ready:
        return _planned(ready, recipe)


def pareto(
    source: str,
    recipes: Mapping[str, Recipe],
    *,
    data: str | None,
    trust_pickle: bool,
    emit: Emit,
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
                points.append(_out_of_reach(asked, error.found))
        if len(missed) == len(points):
            raise missed[0]
        dense = ready.start.model
        cost = count(dense.module, *example(dense))
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

    start: Work
    around: Surroundings
    target: Target | None
    clock: Clock | None  # of the target, which is held
    round_to: int
    images: Data | None
    journal: Journal


@contextmanager
def _prepared(
    source: str, recipe: Recipe, *, data: str | None, trust_pickle: bool, emit: Emit, targets: Path | None
) -> Iterator[_Ready]:
    target = open_target(recipe.bench.target, recipe.bench.threads, file=targets)
    retrain = find_recipe_data(recipe, data) is not None
    with tempfile.TemporaryDirectory() as name, Journal(Path(name) / "run.jsonl", emit) as journal:
        dense = load(source, recipe, trust_pickle, journal)
        images = open_recipe_data(recipe, data, dense, journal) if retrain else None
        dense = fit_head(dense, images, journal)
        around = Surroundings(None, recipe.seed, journal, Path(name) / "unused", "")
        start = begin(dense, around)
        round_to = rounding(recipe, target, journal)
        watch = stopwatch(recipe, target, dense, journal, rounds=0)
        with nullcontext() if watch is None else watch.started() as clock:
            around = replace(around, stopwatch=None if clock is None else Running(clock, rounds=0))
            yield _Ready(start, around, target, clock, round_to, images, journal)


def _planned(ready: _Ready, recipe: Recipe) -> Plan:
    start, journal = ready.start, ready.journal
    work, before = start, len(journal.events)
    performed = steps(recipe, ready.round_to, retrain=False)
    if training := _before_choice(performed):
        found = f"channels will be chosen after {training.stage}"
        journal("note", {"text": f"{found}: here they are by the weights as they are now, and so are widths"})
    for step in performed:
        if not isinstance(step, Train | Permute | MaskWeights | RemoveDead):  # order and zeros cost the same
            scored = replace(ready.around, data=ready.images) if isinstance(step, Choose) else ready.around
            work = perform(step, work, scored)
    if ready.clock is not None and not recipe.selection(ready.round_to).timed:
        tell(ready.clock.pair(start.model.module, work.model.module), journal)
    events, inputs = journal.events[before:], example(start.model)
    dense_cost, slim_cost = count(start.model.module, *inputs), count(work.model.module, *inputs)
    latency, cut = expected(events), work.plan or PrunePlan({})
    planned = steps(recipe, ready.round_to, retrain=ready.images is not None)
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
        "coverage": coverage(work.groups, held(work.groups, work.structure.cost)),
        "latency": latency,
        "memory": {
            "dense": memory_of(start.model.module, *inputs),
            "slim": memory_of(work.model.module, *inputs),
        },
        "least": least(start.structure),
        "bounds": bounds(events),
        "risk": None if ready.images is None else risk(start, work, ready.images),
        "kept": kept_share(start, work),
        "worth_it": worth_it(latency, dense_cost.macs / slim_cost.macs, work.plan is not None),
        "sparsity": masks.EXPECTED
        if recipe.method.unstructured
        else zeros.predicted(work, None if ready.target is None else ready.target.provider),
        "schedules": [_rates(step) for step in planned if isinstance(step, Train) and step.epochs],
    }


def _before_choice(steps: Sequence[Step]) -> Train | None:
    """The training that channels are chosen after, if there is one."""
    first = next((step for step in steps if isinstance(step, Train | Choose)), None)
    return first if isinstance(first, Train) and any(isinstance(step, Choose) for step in steps) else None


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
