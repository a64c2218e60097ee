"""A method is a frozen record of settings, and the steps that follow from them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from compressor.budget.target import PruningTarget
from compressor.steps.base import Step
from compressor.steps.remove_dead_channels import RemoveDeadChannels
from compressor.training.penalty import Penalty


class SettingsGroup(BaseModel):
    """Settings that several methods share. A method holds them as one value; a recipe has their keys beside its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Method(BaseModel):
    """Settings of one method, which a recipe has under the method's name.

    A subclass names itself and says what it is made for: `class Snip(Method, name="snip", trained=False)`.

    Attributes:
        name: The name in recipes.
        needs_retraining: Whether its result is worth nothing before the recipe's retraining.
        trained: Whether it is made for trained models. If so, the run warns of one that was not trained.
        needs_target: Whether the recipe must have a target.
        unstructured: Whether it masks single weights; the only target is then prune.target.weights.
        chooses_criterion: Whether recipes choose its criterion, its rounds of repair and the dropping of blocks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    needs_retraining: ClassVar[bool]
    trained: ClassVar[bool]
    needs_target: ClassVar[bool]
    unstructured: ClassVar[bool]
    chooses_criterion: ClassVar[bool]

    def __init_subclass__(
        cls,
        *,
        name: str,
        needs_retraining: bool = False,
        trained: bool = True,
        needs_target: bool = True,
        unstructured: bool = False,
        chooses_criterion: bool = False,
    ) -> None:
        cls.name, cls.needs_retraining, cls.trained = name, needs_retraining, trained
        cls.needs_target, cls.unstructured, cls.chooses_criterion = needs_target, unstructured, chooses_criterion

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        """Return the steps up to the pruned model. The recipe's retraining follows them."""
        raise NotImplementedError

    def retraining(self) -> Penalty | None:
        """Return the penalty that acts on the weights while the recipe retrains the pruned model."""
        return None

    def finish(self) -> tuple[Step, ...]:
        """Return the steps after the recipe's retraining."""
        return (RemoveDeadChannels(),) if self.unstructured else ()
