"""What a method is: frozen settings, and the steps they stand for."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from compressor.budget.target import PruningTarget
from compressor.steps.base import Step
from compressor.training.penalty import Penalty


class Method(BaseModel):
    """Settings of one method, as written under its own name in a recipe. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False
    trained: ClassVar[bool] = True  # meant for models that were trained; one that was not is a mistake
    needs_target: ClassVar[bool] = True  # False: without prune.target no channel goes, and that is a recipe as well
    unstructured: ClassVar[bool] = False  # single weights become zero: prune.target.weights is all it can be asked for

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        """The steps up to the slim model; retraining is the recipe's own step and comes after."""
        raise NotImplementedError

    def retraining(self) -> Penalty | None:
        """What works on the weights while the recipe retrains the slim model; None = nothing."""
        return None

    def finish(self) -> tuple[Step, ...]:
        """The steps after the recipe's retraining."""
        return ()
