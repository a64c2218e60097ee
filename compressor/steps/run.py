"""Runs steps: times, logs and evaluates them. Which kinds of steps there are is not known here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import dropwhile

import torch

from compressor.agreement import classes_scored, measure_agreement
from compressor.core import Data, LoadedModel, PrunePlan
from compressor.data.validate import check_answers
from compressor.diagnostics.isometry import IMAGES, jacobian_isometry
from compressor.errors import RecipeError
from compressor.models.inputs.example_inputs import example_inputs
from compressor.steps.base import Step
from compressor.steps.context import Context
from compressor.steps.state import Baseline, PruningState
from compressor.surgery.analysis import analyze, require_forward
from compressor.training.evaluate import BATCH_SIZE, evaluate

MAX_AGREEMENT_SAMPLES = 2048  # of the test set


def initial_state(model: LoadedModel, context: Context, *, trained: bool = True) -> PruningState:
    """Find which channels belong together, and measure the dense model where there are data.

    Args:
        model: The dense model.
        context: What the steps will run with.
        trained: Whether the model should be able to do its task already; it is warned of if not.

    Returns:
        The state before the first step.
    """
    context.log("stage", {"name": "analyse"})
    start = time.perf_counter()
    inputs = example_inputs(model)
    require_forward(model.module, *inputs, name=model.name)
    graph = analyze(model.module, *inputs, name=model.name)
    cost = model.original or graph.cost.of(PrunePlan({}))
    state = PruningState(
        model, Baseline(model.module, cost, model.kept, graph, graph.groups), graph=graph, groups=graph.groups
    )
    if context.data is not None:
        check_answers(model.module, context.data)
    state = state.after_seconds("analyse", time.perf_counter() - start)
    state = _evaluated(state, "dense", context)
    if trained and not model.untrained:
        hint = "check model.input, data.mean and data.std, and the order of classes"
        _warn_near_chance(state, "dense", "the dense model", hint, context)
    return state


def compares_answers(steps: Sequence[Step], data: Data | None) -> bool:
    """Tell whether the agreement with the dense model belongs in the report.

    Args:
        steps: All steps of the run.
        data: The data of the run.

    Returns:
        True where the data have no labels, or a step learns from the dense model's answers.
    """
    return data is not None and (data.task is None or any(step.compares_answers for step in steps))


def check_feasible(steps: Sequence[Step], state: PruningState, context: Context) -> None:
    """Raise before a long training what the steps after it would raise whatever their scores are.

    The last selection after the first training is checked, because it has to reach the target. Latency is not checked.

    Args:
        steps: All steps of the run.
        state: The state before the first step.
        context: What the steps will run with.

    Raises:
        TargetNotReached: The target cannot be reached.
        RecipeError: A rule matches no layer.
    """
    after_training = list(dropwhile(lambda step: not step.trains, steps))
    last = next((step for step in reversed(after_training) if step.reaches_target), None)
    if last is not None:
        last.check_feasible(state, context)


def run_step(step: Step, state: PruningState, context: Context, *, evaluates: bool = True) -> PruningState:
    """Run one step, log and time it, and measure the model after it where the step says so.

    Args:
        step: The step.
        state: What the steps before it left.
        context: What it runs with.
        evaluates: Whether the test set is read.

    Returns:
        The new state.

    Raises:
        RecipeError: The step needs data, and there are none.
    """
    start = time.perf_counter()
    if step.needs_data and context.data is None:
        problem = f"no data are given, but the step {step} needs samples"
        raise RecipeError("recipe/data-required", "data", problem, "give --data PATH, or set data.source in the recipe")
    step = step.adapted(state, context)
    context.log("stage", {"name": str(step)})
    state = step.run(state, context)
    state = replace(state, steps=(*state.steps, str(step)))
    state = state.after_seconds(str(step), time.perf_counter() - start)
    stage = step.evaluate_as
    if evaluates and stage is not None:
        state = _evaluated(state, stage, context)
        if step.hint_near_chance is not None:
            _warn_near_chance(state, stage, "the retrained model", step.hint_near_chance, context)
    return state


def _evaluated(state: PruningState, stage: str, context: Context) -> PruningState:
    """The state with the test metric at this stage, which is reported and decides nothing."""
    data, start, module = context.data, time.perf_counter(), state.model.module
    if data is None:
        return state
    if context.compares_answers and module is not state.baseline.module:
        state = _with_agreement(state, stage, data)
    if data.task is None:
        return state.after_seconds("evaluate", time.perf_counter() - start)
    metric = data.task.metric
    value = evaluate(module, data.val_batches(BATCH_SIZE), metric)
    context.log("metric", {"stage": stage, "metric": metric.name, "unit": metric.unit, metric.name: value})
    images = torch.cat(list(data.calibration_batches(IMAGES, images=IMAGES)))
    isometry = jacobian_isometry(module, images, state.baseline.cost.macs)
    state = state.after_evaluation(stage, metric, value, isometry)
    return state.after_seconds("evaluate", time.perf_counter() - start)


def _with_agreement(state: PruningState, stage: str, data: Data) -> PruningState:
    """The state with the agreement of its model and the dense one, on samples that nothing was chosen by."""
    batches = (inputs for inputs, _ in data.val_batches(BATCH_SIZE, images=MAX_AGREEMENT_SAMPLES))
    classes = classes_scored(state.model.spec, data)
    agreement = measure_agreement(state.baseline.module, state.model.module, batches, classes, data.batch_dims)
    return replace(state, agreement={**state.agreement, stage: agreement})


def _warn_near_chance(state: PruningState, stage: str, model: str, hint: str, context: Context) -> None:
    """Warn of a classifier that is hardly better than guessing."""
    data: Data | None = context.data
    if data is not None and data.num_classes and state.quality[stage] < 130 / data.num_classes:
        problem = f"{model} is near chance ({state.quality[stage]:.2f} %) on {data.name}"
        context.log.warning(f"{problem}: {hint}")
