"""The steps of a run: the method's, the recipe's retraining, and what the method does after it."""

from __future__ import annotations

from dataclasses import replace

from compressor.recipe.recipe_config import Recipe
from compressor.steps.base import Step
from compressor.steps.recalibrate import Recalibrate
from compressor.steps.train import place_retraining


def build_steps(recipe: Recipe, round_to: int, *, retrain: bool) -> tuple[Step, ...]:
    """List the steps of a run.

    Args:
        recipe: The recipe.
        round_to: What widths are multiples of; what `prune.round_to: auto` came to.
        retrain: Whether there are data to retrain with.

    Returns:
        The steps in the order in which they run.

    Raises:
        RecipeError: The method needs a longer retraining than the recipe has.
    """
    method, training = recipe.method, recipe.train_step()
    if training is not None:
        training = replace(training, penalty=method.retraining())
    after: list[Step] = []
    if retrain and recipe.retrain.recalibrate:
        after.append(Recalibrate())
    if retrain and training is not None:
        after.append(training)
    steps = method.steps(recipe.selection(round_to))
    return (*place_retraining(steps, training, after), *method.finish())
