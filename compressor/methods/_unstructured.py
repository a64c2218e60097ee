"""Settings that methods have in common which mask single weights, all layers compared with each other."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from compressor.budget.target import PruningTarget
from compressor.criteria.base import WeightCriterion
from compressor.criteria.gradient import GradientCriterion, snip
from compressor.methods._iterative import halving_shares
from compressor.methods._regularization import Count, Truth
from compressor.methods.beginning import Beginning, ByGradients
from compressor.steps.base import Step
from compressor.steps.mask_unstructured import MaskUnstructured
from compressor.steps.remove_dead_channels import RemoveDeadChannels


class Unstructured(Beginning):
    """Masks are fixed while the recipe retrains; what channels they leave dead go after it."""

    unstructured: ClassVar[bool] = True

    guard: Truth = Field(default=True, description="every layer keeps at least its best weight")

    def mask(
        self, criterion: WeightCriterion, selection: PruningTarget, keep: tuple[float, ...] = (), *, nested: bool = True
    ) -> MaskUnstructured:
        """The step that leaves what the recipe asks for, after the rounds of `keep` where it takes several."""
        return MaskUnstructured(criterion, keep or (target_share(selection),), nested, self.guard, selection.rules)

    def finish(self) -> tuple[Step, ...]:
        return (RemoveDeadChannels(),)


class Sensitive(ByGradients):
    """Weights compared by what the loss would change without them."""

    loss: Literal["task", "logit"] = Field(
        default="task",
        description="gradients are of: task = the loss that is trained on; logit = minus the mean answer for the right "
        "class, as released with FORCE",
    )
    norms: Literal["running", "batch"] = Field(
        default="running", description="statistics of BatchNorm: running = its estimates; batch = as while training"
    )

    def sensitivity(self, name: str) -> GradientCriterion:
        return GradientCriterion(
            name,
            snip,
            batches=self.batches,
            batch_size=self.batch_size,
            training=self.norms == "batch",
            loss=self.loss,
        )


class InRounds(BaseModel):
    """A share approached in rounds."""

    rounds: Count = Field(default=60, description="in which the share of what remains falls")
    course: Literal["exponential", "linear"] = Field(
        default="exponential",
        description="exponential = each round keeps the same share of what was left; linear = each takes as many",
    )

    def shares(self, selection: PruningTarget) -> tuple[float, ...]:
        course = exponential_shares if self.course == "exponential" else linear_shares
        return course(target_share(selection), self.rounds)


def target_share(selection: PruningTarget) -> float:
    """The share of weights that may remain."""
    assert selection.weights is not None, "recipes of these methods ask for prune.target.weights"
    return selection.weights


def exponential_shares(share: float, rounds: int) -> tuple[float, ...]:
    """`share^(t/T)` for t = 1 to T."""
    return tuple(share ** (number / rounds) for number in range(1, rounds + 1))


def linear_shares(share: float, rounds: int) -> tuple[float, ...]:
    """`1 - (1 - share) t/T` for t = 1 to T, the share itself at last."""
    return (*(1 - (1 - share) * number / rounds for number in range(1, rounds)), share)


def halving_weight_shares(share: float, halvings: int) -> tuple[float, ...]:
    """What remains after rounds that take half of what is still to go, the share itself at last."""
    return (*(1 - gone for gone in halving_shares(1 - share, halvings)[:-1]), share)
