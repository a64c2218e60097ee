"""GraSP: weights are masked whose removal lowers the gradient flow least, or raises it most.

Wang, Zhang and Grosse, Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020,
arXiv:2002.07376: `w (H g)` is what removing w takes from g g to first order; the lowest go, negative ones first, with
answers divided by a temperature of 200 before the loss. The direction is that of the official code; others keep the
opposite weights.

Two things are not as released: images are drawn as in training, not so many of each class, and the classifier is scored
by the weights it has and goes on with, where the released code scores a copy with other random ones.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.gradient import GradientCriterion, crop
from compressor.methods._regularization import Count, Positive
from compressor.methods._unstructured import Unstructured
from compressor.methods.base import Method
from compressor.methods.beginning import ByGradients
from compressor.steps.base import Step


class Grasp(ByGradients, Unstructured, Method):
    name: ClassVar[str] = "grasp"

    batches: Count = 2
    batch_size: Count = Field(default=50, description="of these batches; with two, 10 images a class of CIFAR-10")
    temperature: Positive = Field(default=200.0, description="what answers are divided by before the loss")
    norms: Literal["running", "batch"] = Field(
        default="batch", description="statistics of BatchNorm: running = its estimates; batch = as while training"
    )

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        criterion = GradientCriterion(
            self.name,
            crop,
            order=2,
            signed=True,
            batches=self.batches,
            batch_size=self.batch_size,
            training=self.norms == "batch",
            temperature=self.temperature,
        )
        return *self.begin(), self.mask(criterion, selection)
