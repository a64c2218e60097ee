"""Iterative SNIP: connection sensitivity found anew in every round, on what the rounds before left.

de Jorge, Sanyal, Behl, Torr, Rogez and Dokania, Progressive Skeletonization: Trimming more fat from a network at
initialization, ICLR 2021, arXiv:2006.09081: `|w dL/dw|` at the masked weights; what is masked stays masked. One round
is SNIP. As released: 60 rounds, one batch each (10 for CIFAR-100), statistics of the batch.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from compressor.budget.target import PruningTarget
from compressor.criteria.gradient import GradientCriterion, snip
from compressor.methods._iterative import in_rounds
from compressor.methods._regularization import Count
from compressor.methods._unstructured import InRounds, Sensitive, Unstructured
from compressor.methods.base import Method
from compressor.methods.beginning import ByGradients
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels


class IterativeSnip(InRounds, Sensitive, Unstructured, Method):
    name: ClassVar[str] = "iterative-snip"

    batches: Count = 1
    norms: Literal["running", "batch"] = "batch"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), self.mask(self.sensitivity(self.name), selection, self.shares(selection))


class Snip(Sensitive, Unstructured, Method):
    name: ClassVar[str] = "snip"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), self.mask(self.sensitivity(self.name), selection)


class Force(InRounds, Sensitive, Unstructured, Method):
    name: ClassVar[str] = "force"

    batches: Count = 1
    norms: Literal["running", "batch"] = "batch"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        criterion = self.sensitivity(self.name)
        return *self.begin(), self.mask(criterion, selection, self.shares(selection), nested=False)


class Gated(ByGradients, BaseModel):
    loss: Literal["task", "logit"] = Field(
        default="task", description="task = the data's own; logit = minus the mean answer for the right class"
    )

    def sensitivity(self) -> GradientCriterion:
        return GradientCriterion("snap", snip, batches=self.batches, batch_size=self.batch_size, loss=self.loss)


class Snap(Gated, Method):
    name: ClassVar[str] = "snap"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), SelectChannels(self.sensitivity(), selection), RemoveChannels()


class SnapIt(Gated, Method):
    """Half of the channels go first, then each time half of what is still to go."""

    name: ClassVar[str] = "snap-it"

    halvings: Count = Field(default=5, description="of what is still to go; the rounds are two more")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), *in_rounds(self.sensitivity(), selection, self.halvings)
