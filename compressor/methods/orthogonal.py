"""L1 pruning with orthogonality brought in from outside: the baselines trainability preserving pruning is held against.

Wang and Fu, arXiv:2207.12534, table 1. Before pruning or while retraining, `weight * penalty` is added to the loss of
every layer: KernOrth, Xie et al., arXiv:1703.01827, or OrthConv, Wang et al., arXiv:1911.12207, which spares the first
layer. OrthP makes the weights orthogonal by hand after removal: Wang et al., Dynamical Isometry: The Missing Ingredient
for Neural Network Pruning, arXiv:2105.05916.
"""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

from pydantic import BaseModel, Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.methods._regularization import Count, NotNegative, Positive, Regularising
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.orthogonalize import Orthogonalize
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import constant_strength, convolution_orthogonality, kernel_orthogonality


class Weighted(BaseModel):
    weight: NotNegative = Field(default=0.1, description="factor on the penalty")

    def kern_orth(self) -> Penalty:
        return Penalty(
            "KernOrth",
            (PenaltyTerm(kernel_orthogonality, partial(constant_strength, value=self.weight), applies_to="layers"),),
        )

    def orth_conv(self) -> Penalty:
        strength = partial(constant_strength, value=self.weight)
        return Penalty(
            "OrthConv", (PenaltyTerm(convolution_orthogonality, strength, applies_to="layers", skip_first=1),)
        )


class L1OrthP(Method):
    """Exact isometry only where activations are linear."""

    name: ClassVar[str] = "l1-orthp"

    gain: Positive = Field(default=math.sqrt(2), description="factor on orthogonal weights; the root of 2 suits ReLU")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, selection), RemoveChannels(), Orthogonalize(self.gain)


class L1KernOrth(Weighted, Method):
    """The penalty works throughout retraining."""

    name: ClassVar[str] = "l1-kernorth"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, selection), RemoveChannels()

    def retraining(self) -> Penalty:
        return self.kern_orth()


class L1OrthConv(Weighted, Method):
    """The penalty works throughout retraining."""

    name: ClassVar[str] = "l1-orthconv"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, selection), RemoveChannels()

    def retraining(self) -> Penalty:
        return self.orth_conv()


class KernOrthL1(Weighted, Regularising, Method):
    """The penalty works in a training before the choice."""

    name: ClassVar[str] = "kernorth-l1"
    needs_data: ClassVar[bool] = True

    epochs: Count = Field(default=30, description="length of the training with the penalty")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return self.train(self.kern_orth(), epochs=self.epochs), SelectChannels(l1, selection), RemoveChannels()


class OrthConvL1(Weighted, Regularising, Method):
    """The penalty works in a training before the choice."""

    name: ClassVar[str] = "orthconv-l1"
    needs_data: ClassVar[bool] = True

    epochs: Count = Field(default=30, description="length of the training with the penalty")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return self.train(self.orth_conv(), epochs=self.epochs), SelectChannels(l1, selection), RemoveChannels()
