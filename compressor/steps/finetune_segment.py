"""The recipe's own training at a place that the method chooses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.core import RETRAINING
from compressor.errors import RecipeError
from compressor.steps.base import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressor.steps.context import Context
    from compressor.steps.state import PruningState
    from compressor.steps.train import Train


@dataclass(frozen=True, slots=True)
class FinetuneSegment(Step):
    """The recipe's own training, or a part of it, at a place that the method chooses.

    It stands for a `Train`, which `place_retraining` puts in its place before the first step runs.
    """

    needs_data: ClassVar[bool] = True

    first: int = 0  # epoch of the recipe's training to begin with
    last: int | None = None  # epoch to end before; None = its end
    stage: str = RETRAINING

    def __str__(self) -> str:
        return f"FinetuneSegment(from epoch {self.first}{'' if self.last is None else f' to {self.last}'})"

    def of(self, retraining: Train) -> Train:
        """This part of the recipe's training."""
        last = retraining.epochs if self.last is None else self.last
        return replace(retraining.segment(self.first, last), stage=self.stage)

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Refuse to run.

        Args:
            state: Not used.
            context: Not used.

        Returns:
            Nothing.

        Raises:
            AssertionError: Always.
        """
        raise AssertionError("place_retraining replaces it before the first step runs")


def place_retraining(steps: Sequence[Step], training: Train | None, after: Sequence[Step]) -> tuple[Step, ...]:
    """Put the recipe's training where the method wants it, or what follows the method after its steps.

    Args:
        steps: The method's steps.
        training: The recipe's training, if it has one.
        after: What follows the steps of a method that has no `FinetuneSegment`.

    Returns:
        The steps, in which a `Train` has taken the place of every `FinetuneSegment`.

    Raises:
        RecipeError: The recipe's training is too short for a segment.
    """

    def placed(step: FinetuneSegment) -> Train:
        if training is None or training.epochs <= step.first:
            problem = f"it is {training.epochs if training else 0}, but the method trains from epoch {step.first} on"
            raise RecipeError(
                "recipe/too-few-epochs", "retrain.epochs", problem, f"set retrain.epochs above {step.first}"
            )
        return step.of(training)

    if not any(isinstance(step, FinetuneSegment) for step in steps):
        return (*steps, *after)
    return tuple(placed(step) if isinstance(step, FinetuneSegment) else step for step in steps)
