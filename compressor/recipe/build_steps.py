"""The steps of a run: the method's, the recovery that the recipe asks for, and what the method does after it."""

from __future__ import annotations

from dataclasses import replace

from compressor.core import Data
from compressor.recipe.recipe_config import Recipe
from compressor.steps.base import Step
from compressor.steps.recalibrate import Recalibrate
from compressor.steps.train import Train, place_retraining
from compressor.training.settings import Distillation

WITHOUT_LABELS = Distillation(temperature=2.0, weight=1.0, labels=False)
"""What a retraining without labels learns from, unless the recipe says it."""


def build_steps(recipe: Recipe, round_to: int, data: Data | None, *, trained: bool = False) -> tuple[Step, ...]:
    """List the steps of a run.

    Args:
        recipe: The recipe.
        round_to: What widths are multiples of; what `prune.round_to: auto` came to.
        data: What recovery and retraining use; None = there is neither.
        trained: Whether the model's weights are trained, so that there is something to reconstruct.

    Returns:
        The steps in the order in which they run.

    Raises:
        RecipeError: The method needs a longer retraining than the recipe has.
    """
    method, training = recipe.method, recipe.train_step()
    if training is not None:
        training = _with_teacher(replace(training, penalty=method.retraining()), data)
    reconstruction = recipe.reconstruct_step(trained=trained)
    after: list[Step] = []
    if data is not None and reconstruction is not None:
        after.append(reconstruction)  # it sets the statistics of BatchNorm as well
    elif data is not None and recipe.retrain.recalibrate:
        after.append(Recalibrate())
    if data is not None and training is not None:
        after.append(training)
    steps = method.steps(recipe.selection(round_to))
    return (*place_retraining(steps, training, after), *method.finish())


def _with_teacher(training: Train, data: Data | None) -> Train:
    """The training; without labels it learns from the dense model's answers alone."""
    if data is None or data.task is not None:
        return training
    distill = training.distill or WITHOUT_LABELS
    return replace(training, distill=replace(distill, labels=False))
