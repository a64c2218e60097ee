"""Settings that methods have in common which mask single weights, all layers compared with each other."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from compressor.core import MaskWeights, RemoveDead, Selection, Step, Weighing
from compressor.methods.regularising import Count, Truth


class Unstructured(BaseModel):
    """Masks are fixed while the recipe retrains; what channels they leave dead go after it."""

    needs_target: ClassVar[bool] = True
    unstructured: ClassVar[bool] = True

    guard: Truth = Field(default=True, description="every layer keeps at least its best weight")

    def mask(
        self, criterion: Weighing, selection: Selection, keep: tuple[float, ...] = (), *, nested: bool = True
    ) -> MaskWeights:
        """The step that leaves what the recipe asks for, after the rounds of `keep` where it takes several."""
        assert selection.weights is not None, "recipes ask for prune.target.weights"
        return MaskWeights(criterion, keep or (selection.weights,), nested, self.guard, selection.rules)

    def finish(self) -> tuple[Step, ...]:
        return (RemoveDead(),)


class Weighed(BaseModel):
    """Training images that gradients are taken of."""

    needs_data: ClassVar[bool] = True

    batches: Count = Field(default=5, description="of training images that gradients are taken of")
    batch_size: Count = Field(default=128, description="of these batches")


def exponential(share: float, rounds: int) -> tuple[float, ...]:
    """`share^(t/T)` for t = 1 to T: each round keeps the same fraction of what was left."""
    return tuple(share ** (number / rounds) for number in range(1, rounds + 1))


def linear(share: float, rounds: int) -> tuple[float, ...]:
    """`1 - (1 - share) t/T`: each round takes as many as the others."""
    return tuple(1 - (1 - share) * number / rounds for number in range(1, rounds + 1))
