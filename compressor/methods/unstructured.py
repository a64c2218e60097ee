"""Settings that methods have in common which mask single weights, all layers compared with each other."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from compressor.core import MaskWeights, RemoveDead, Saliency, Selection, Step, Weighing
from compressor.methods.beginning import Beginning, ByGradients
from compressor.methods.regularising import Count, Truth
from compressor.methods.rounds import halving_shares
from compressor.methods.saliencies import connection


class Unstructured(Beginning):
    """Masks are fixed while the recipe retrains; what channels they leave dead go after it."""

    unstructured: ClassVar[bool] = True

    guard: Truth = Field(default=True, description="every layer keeps at least its best weight")

    def mask(
        self, criterion: Weighing, selection: Selection, keep: tuple[float, ...] = (), *, nested: bool = True
    ) -> MaskWeights:
        """The step that leaves what the recipe asks for, after the rounds of `keep` where it takes several."""
        return MaskWeights(criterion, keep or (asked(selection),), nested, self.guard, selection.rules)

    def finish(self) -> tuple[Step, ...]:
        return (RemoveDead(),)


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

    def sensitivity(self, name: str) -> Saliency:
        return Saliency(
            name,
            connection,
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

    def shares(self, selection: Selection) -> tuple[float, ...]:
        course = exponential if self.course == "exponential" else linear
        return course(asked(selection), self.rounds)


def asked(selection: Selection) -> float:
    """The share of weights that may remain."""
    assert selection.weights is not None, "recipes of these methods ask for prune.target.weights"
    return selection.weights


def exponential(share: float, rounds: int) -> tuple[float, ...]:
    """`share^(t/T)` for t = 1 to T."""
    return tuple(share ** (number / rounds) for number in range(1, rounds + 1))


def linear(share: float, rounds: int) -> tuple[float, ...]:
    """`1 - (1 - share) t/T` for t = 1 to T, the share itself at last."""
    return (*(1 - (1 - share) * number / rounds for number in range(1, rounds)), share)


def halved(share: float, halvings: int) -> tuple[float, ...]:
    """What remains after rounds that take half of what is still to go, the share itself at last."""
    return (*(1 - gone for gone in halving_shares(1 - share, halvings)[:-1]), share)
