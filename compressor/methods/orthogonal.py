"""L1 pruning combined with orthogonality, the baselines that trainability preserving pruning is compared with.

Wang and Fu, arXiv:2207.12534, table 1. Before pruning, or while retraining, `weight * penalty` is added to the loss of
every layer. The penalty is KernOrth, Xie et al., arXiv:1703.01827, or OrthConv, Wang et al., arXiv:1911.12207, which
leaves out the first layer. OrthP makes the weights orthogonal after the removal: Wang et al., Dynamical Isometry: The
Missing Ingredient for Neural Network Pruning, arXiv:2105.05916.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.field_types import Count, NonNegative, Positive
from compressor.methods._training import PenaltyTraining
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.orthogonalize import Orthogonalize
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import constant_strength, convolution_orthogonality, kernel_orthogonality

PenaltyWeight = Annotated[NonNegative, Field(description="factor on the penalty")]
PenaltyEpochs = Annotated[Count, Field(description="length of the training with the penalty, in epochs")]


def kern_orth(weight: float) -> Penalty:
    """Return the penalty `weight * |A^T A - I|_F` of every layer, A its matrix of kernels."""
    strength = partial(constant_strength, value=weight)
    return Penalty("KernOrth", (PenaltyTerm(kernel_orthogonality, strength, applies_to="all_layers"),))


def orth_conv(weight: float) -> Penalty:
    """Return the penalty `weight * |conv(W, W) - I_0|_F` of every layer but the first."""
    strength = partial(constant_strength, value=weight)
    term = PenaltyTerm(convolution_orthogonality, strength, applies_to="all_layers", skip_first=1)
    return Penalty("OrthConv", (term,))


class L1OrthP(Method, name="l1-orthp"):
    """Make the weights orthogonal after the removal. The isometry is exact only where activations are linear."""

    gain: Positive = Field(default=math.sqrt(2), description="factor on the orthogonal weights; sqrt(2) suits ReLU")

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, target), RemoveChannels(), Orthogonalize(self.gain)


class L1KernOrth(Method, name="l1-kernorth"):
    """Add the KernOrth penalty while retraining."""

    weight: PenaltyWeight = 0.1

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, target), RemoveChannels()

    def retraining(self) -> Penalty:
        return kern_orth(self.weight)


class L1OrthConv(Method, name="l1-orthconv"):
    """Add the OrthConv penalty while retraining."""

    weight: PenaltyWeight = 0.1

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, target), RemoveChannels()

    def retraining(self) -> Penalty:
        return orth_conv(self.weight)


class KernOrthL1(Method, name="kernorth-l1"):
    """Train with the KernOrth penalty before the selection."""

    training: PenaltyTraining = PenaltyTraining()
    weight: PenaltyWeight = 0.1
    epochs: PenaltyEpochs = 30

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        train = self.training.step(kern_orth(self.weight), epochs=self.epochs)
        return train, SelectChannels(l1, target), RemoveChannels()


class OrthConvL1(Method, name="orthconv-l1"):
    """Train with the OrthConv penalty before the selection."""

    training: PenaltyTraining = PenaltyTraining()
    weight: PenaltyWeight = 0.1
    epochs: PenaltyEpochs = 30

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        train = self.training.step(orth_conv(self.weight), epochs=self.epochs)
        return train, SelectChannels(l1, target), RemoveChannels()
