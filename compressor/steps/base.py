"""What a step is: settings, facts that others read before it runs, and `run`.

Steps are read with recipes, so their files import torch and numpy only where they run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState


class Step(ABC):
    """One thing that a method does to a model. `str(step)` is its name in the log and in the report."""

    __slots__ = ()

    def __str__(self) -> str:
        return type(self).__name__

    @property
    def needs_data(self) -> bool:
        """Whether it uses training images."""
        return False

    @property
    def trains(self) -> bool:
        """Whether it is a training, which takes long."""
        return False

    @property
    def selects_channels(self) -> bool:
        """Whether it decides which channels are removed."""
        return False

    @property
    def reaches_target(self) -> bool:
        """Whether it decides what is removed or masked, and so whether the target is reached."""
        return False

    @property
    def in_plan(self) -> bool:
        """Whether `plan` runs it. Steps that take long, or that follow those, are left out."""
        return True

    @property
    def compares_answers(self) -> bool:
        """Whether it learns from the dense model's answers, so that the agreement with them is of interest."""
        return False

    @property
    def evaluate_as(self) -> str | None:
        """The stage under which the test metric is reported after the step; None = it is not measured."""
        return None

    @property
    def hint_near_chance(self) -> str | None:
        """What to change when the model is near chance after this step; None = no warning."""
        return None

    def adapted(self, state: PruningState, context: Context) -> Step:
        """The step as it runs after the steps before it.

        Args:
            state: The state it will run on.
            context: What it will run with.

        Returns:
            The step itself, or one whose settings follow from the state.
        """
        return self

    def check_feasible(self, state: PruningState, context: Context) -> None:
        """Raise what `run` would raise for any scores and weights, without the time that `run` takes.

        Args:
            state: The state at the beginning of the run.
            context: What the step will run with.

        Raises:
            TargetNotReached: The target cannot be reached.
            RecipeError: A rule matches no layer.
        """
        return None

    def learning_rates(self) -> tuple[tuple[float, float], ...]:
        """Pairs (epochs done, learning rate) that show the course of a training's learning rate."""
        return ()

    @abstractmethod
    def run(self, state: PruningState, context: Context) -> PruningState:
        """Perform the step.

        Args:
            state: What the steps before it left; it is not changed.
            context: Data, seed, log and device.

        Returns:
            The new state.
        """
