"""The steps of a run: the method's, the recovery that the recipe asks for, and what the method does after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from compressor.budget.rounds import repair_schedules
from compressor.core import Data, LoadedModel
from compressor.recipe.recipe_config import Recipe
from compressor.steps.base import Step
from compressor.steps.finetune_segment import place_retraining
from compressor.steps.recalibrate import Recalibrate
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.repair_rounds import RepairRounds
from compressor.steps.select_channels import SelectChannels
from compressor.steps.train import Train
from compressor.training.train_settings import Distillation

WITHOUT_LABELS = Distillation(temperature=2.0, weight=1.0, labels=False)
"""What a training without labels learns from, unless the recipe says it."""


def steps_of_run(recipe: Recipe, round_to: int, model: LoadedModel, data: Data | None) -> tuple[Step, ...]:
    """List the steps of a run.

    Args:
        recipe: The recipe.
        round_to: What widths are multiples of; what `prune.round_to: auto` came to.
        model: The dense model.
        data: The data; None = there are none.

    Returns:
        The steps in the order in which they run.
    """
    labels = data is None or data.task is not None
    return build_steps(recipe, round_to, retrain=data is not None, labels=labels, trained=not model.untrained)


def build_steps(
    recipe: Recipe, round_to: int = 1, *, retrain: bool, labels: bool = True, trained: bool = False
) -> tuple[Step, ...]:
    """List the steps of a run whose model and data are not loaded.

    Args:
        recipe: The recipe.
        round_to: What widths are multiples of; what `prune.round_to: auto` came to.
        retrain: Whether there are data to recover and retrain with.
        labels: Whether they have labels; without, the dense model's answers are learned.
        trained: Whether the model's weights are trained, so that there is something to reconstruct.

    Returns:
        The steps in the order in which they run.

    Raises:
        RecipeError: The method needs a longer retraining than the recipe has.
    """
    method, training = recipe.method, recipe.train_step()
    if training is not None:
        training = replace(training, penalty=method.retraining())
        training = training if labels else _of_answers(training)
    steps = recipe.method_steps(round_to)
    if not labels and trained:
        steps = tuple(_of_answers(step) if isinstance(step, Train) else step for step in steps)
    if not retrain:
        return (*place_retraining(steps, training, ()), *method.finish())
    repair, refinement = recipe.reconstruct_step(trained=trained), recipe.refine_step()
    recovery: list[Step] = []
    if repair is not None:  # it sets BatchNorm statistics as well
        rounds = _in_rounds(steps, repair, recipe.prune.rounds)
        if rounds is None:
            recovery.append(repair)
        else:
            steps = rounds
        recovery += [refinement] if refinement is not None else []
    elif recipe.retrain.recalibrate:
        recovery.append(Recalibrate())
    recovery += [training] if training is not None else []
    return (*place_retraining(steps, training, recovery), *method.finish())


def _in_rounds(steps: Sequence[Step], repair: Reconstruct, rounds: int | Literal["auto"]) -> tuple[Step, ...] | None:
    """The method's steps with a repair after each of several rounds; None where one round is all."""
    match steps:
        case (*before, SelectChannels() as selection, RemoveChannels()):
            schedules = repair_schedules(selection.target, rounds)
            if max(map(len, schedules)) > 1:
                return *before, RepairRounds(selection, repair, schedules)
    return None


def _of_answers(training: Train) -> Train:
    """The training, which learns the dense model's answers instead of labels."""
    distill = WITHOUT_LABELS if training.distill is None else replace(training.distill, labels=False)
    return replace(training, distill=distill)
