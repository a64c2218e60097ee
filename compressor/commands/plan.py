"""`compress plan`: predicts what a recipe removes and gains, without training, for one or several targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.bench.device.device import Device
from compressor.bench.device_timer import latency_probe
from compressor.bench.open_device import open_device
from compressor.bench.width_multiples import choose_width_multiple
from compressor.budget.memory import memory_of
from compressor.commands.plan_estimates import (
    accuracy_preview,
    expected_latency,
    latency_bottlenecks,
    lower_bound,
    recommendation,
    retained_l1,
)
from compressor.commands.softer_targets import agreement_at_risk, softer_targets
from compressor.core import Cost, EventSink, LoadedModel, PrunePlan
from compressor.errors import TargetNotReached
from compressor.graph.cost import count_cost
from compressor.models.inputs.example_inputs import example_inputs
from compressor.recipe import Recipe
from compressor.recipe.build_steps import build_steps, steps_of_run
from compressor.recipe.inputs import load_inputs
from compressor.report.findings.blocks_dropped import dropped_blocks
from compressor.report.findings.group_errors import curves_record
from compressor.report.findings.nm_zeros import predicted_speedup
from compressor.report.findings.prunable_groups import coverage_record, frozen_groups
from compressor.report.findings.unstructured_zeros import EXPECTED
from compressor.report.pareto_result import Pareto, ParetoPoint
from compressor.report.plan_result import Plan
from compressor.report.schedule_plot import LearningRateCurve
from compressor.run_log import RunLog
from compressor.steps.base import Step
from compressor.steps.context import Context
from compressor.steps.latency_probe import LatencyEstimate, hold_device
from compressor.steps.narrow_layers import warn_of_narrow_layers
from compressor.steps.run import initial_state, run_step
from compressor.steps.state import PruningState
from compressor.training.training_checkpoint import Checkpoints


def plan_run(
    source: str | LoadedModel,
    recipe: Recipe,
    *,
    data: object,
    trust_pickle: bool,
    emit: EventSink,
    targets: Path | None = None,
) -> Plan:
    """Plan one recipe: prune a copy of the model, and time it on the device.

    A latency target is met by predictions alone. The plan for any other target is measured.

    Args:
        source: The model: a checkpoint, a folder or a name; or the model itself.
        recipe: The recipe.
        data: The option `--data`, or the data themselves.
        trust_pickle: Whether to unpickle files that may contain code.
        emit: Receives the events.
        targets: Another targets.yaml.

    Returns:
        The plan.

    Raises:
        TargetNotReached: The target cannot be reached.
    """
    with _prepared(source, recipe, data=data, trust_pickle=trust_pickle, emit=emit, targets=targets) as planner:
        return planner.plan(recipe)


def plan_several(
    source: str,
    recipes: Mapping[str, Recipe],
    *,
    data: str | None,
    trust_pickle: bool,
    emit: EventSink,
    targets: Path | None = None,
) -> Pareto:
    """Plan several recipes that differ in their target. The model is analyzed once, and its layers are timed once.

    Args:
        source: The model: a checkpoint, a folder or a name.
        recipes: The target as written -> the recipe.
        data: The option `--data`.
        trust_pickle: Whether to unpickle files that may contain code.
        emit: Receives the events.
        targets: Another targets.yaml.

    Returns:
        One point for each recipe.

    Raises:
        TargetNotReached: No target can be reached.
    """
    first = next(iter(recipes.values()))
    with _prepared(source, first, data=data, trust_pickle=trust_pickle, emit=emit, targets=targets) as planner:
        points, missed = [], []
        for target, recipe in recipes.items():
            try:
                points.append(_point(target, planner.plan(recipe)))
            except TargetNotReached as error:
                missed.append(error)
                points.append(_unreachable_point(target, error.problem))
        if len(missed) == len(points):
            raise missed[0]
        cost = _cost(planner.baseline.model)
        return {
            "model": planner.baseline.model.name,
            "method": first.prune.method,
            "device": None if planner.device is None else planner.device.name,
            "dense": {"params": cost.params, "macs": cost.macs},
            "points": points,
        }


@dataclass(frozen=True, slots=True)
class _Planner:
    """The model, the device and the context that all plans for a model share."""

    baseline: PruningState
    context: Context
    device: Device | None
    round_to: int

    def plan(self, recipe: Recipe) -> Plan:
        baseline, context, data = self.baseline, self.context, self.context.data
        steps = steps_of_run(recipe, self.round_to, self.baseline.model, data)
        self._note_late_selection(steps)
        state = baseline
        for step in build_steps(recipe, self.round_to, retrain=False):
            if step.in_plan:
                state = run_step(step, state, context, evaluates=False)
        warn_of_narrow_layers(state, recipe.pruning_target(self.round_to), context.log)
        estimate = state.latency or self._measured(state)
        latency = None if estimate is None else expected_latency(estimate)
        dense, slim = _cost(baseline.model), _cost(state.model)
        removed, groups = state.removed or PrunePlan({}), state.baseline.groups
        softer = softer_targets(baseline, state, recipe, self.round_to)
        return {
            "model": baseline.model.name,
            "method": recipe.prune.method,
            "steps": [str(step) for step in steps],
            "target": _target(recipe),
            "round_to": removed.round_to,
            "dense": {"params": dense.params, "macs": dense.macs},
            "slim": {"params": slim.params, "macs": slim.macs},
            "ratios": {"params": dense.params / slim.params, "macs": dense.macs / slim.macs},
            "groups": [
                {"name": group.name, "before": group.size, "after": int(removed.kept[group.name].sum())}
                for group in groups
                if group.name in removed.kept
            ],
            "frozen": frozen_groups(groups),
            "coverage": coverage_record(groups, state.baseline.graph.cost),
            "latency": latency,
            "memory": {"dense": _memory(baseline), "slim": _memory(state)},
            "least": lower_bound(baseline.baseline.graph),
            "bounds": latency_bottlenecks(state.latency),
            "risk": None if data is None or data.task is None else accuracy_preview(baseline, state, data),
            "kept": retained_l1(baseline, state),
            "worth_it": recommendation(latency, dense.macs / slim.macs, state.is_smaller),
            "sparsity": self._sparsity(recipe, state),
            "dropped_blocks": dropped_blocks(baseline, state),
            "schedules": [_rates(step) for step in steps if step.learning_rates()],
            "error_curves": curves_record(state.errors),
            "softer": softer,
            "at_risk": agreement_at_risk(recipe, state, softer),
        }

    def _measured(self, state: PruningState) -> LatencyEstimate | None:
        if self.context.latency_probe is None:
            return None
        with self.context.latency_probe.open() as session:
            pair = session.measure_pair(self.baseline.model.module, state.model.module)
        fields = {"slim_ms": pair.slim, "dense_ms": pair.dense, "interval_ms": list(pair.interval)}
        self.context.log("latency", {"measured": True, **fields})
        return LatencyEstimate(pair, measured=True)

    def _sparsity(self, recipe: Recipe, state: PruningState) -> str | None:
        if recipe.method.unstructured:
            return EXPECTED
        return predicted_speedup(state, None if self.device is None else self.device.provider)

    def _note_late_selection(self, steps: Sequence[Step]) -> None:
        """Say that a training comes before the channels are selected, so that the run will select others."""
        first = next((step for step in steps if step.trains or step.selects_channels), None)
        if first is not None and first.trains and any(step.selects_channels for step in steps):
            problem = f"channels will be selected {first.evaluate_as or f'after {first}'}"
            self.context.log.note(f"{problem}: this plan selects them by the present weights")


@contextmanager
def _prepared(
    source: str | LoadedModel,
    recipe: Recipe,
    *,
    data: object,
    trust_pickle: bool,
    emit: EventSink,
    targets: Path | None,
) -> Iterator[_Planner]:
    device = open_device(recipe.bench.target, recipe.bench.threads, file=targets)
    with RunLog(emit=emit) as log:
        model, images = load_inputs(source, recipe, data, log, trust_pickle=trust_pickle, needs_data=False)
        context = Context(images, recipe.seed, log, Checkpoints(None, ""))
        # Without data: a plan does not show the dense metric, which takes long.
        baseline = initial_state(model, replace(context, data=None))
        round_to = choose_width_multiple(recipe, device, log)
        probe = latency_probe(recipe, device, model, log, rounds=0)
        with hold_device(probe) as held:
            yield _Planner(baseline, replace(context, latency_probe=held), device, round_to)


def _point(target: str, plan: Plan) -> ParetoPoint:
    return {
        "asked": target,
        "reason": None,
        "slim": plan["slim"],
        "memory": plan["memory"]["slim"],
        "latency": plan["latency"],
        "kept": plan["kept"],
        "risk": plan["risk"],
    }


def _unreachable_point(target: str, reason: str) -> ParetoPoint:
    return {
        "asked": target, "reason": reason, "slim": None, "memory": None, "latency": None, "kept": None, "risk": None,
    }  # fmt: skip


def _cost(model: LoadedModel) -> Cost:
    return count_cost(model.module, *example_inputs(model))


def _memory(state: PruningState) -> int:
    return memory_of(state.model.module, *state.example_inputs())


def _target(recipe: Recipe) -> str:
    target = recipe.prune.target
    return ", ".join(f"{key}: {value}" for key, value in target.model_dump().items()) if target else "no channels"


def _rates(step: Step) -> LearningRateCurve:
    rates = step.learning_rates()
    return {"step": str(step), "epochs": int(rates[-1][0]), "rates": list(rates)}
