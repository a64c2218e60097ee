"""TPP: train with penalties that drive the selected filters to zero and make them orthogonal to the others, then remove
them.

Wang and Fu, Trainability Preserving Neural Pruning, ICLR 2023, arXiv:2207.12534. Filters are selected by mean |w|. The
loss of the released code is, with a strength s that grows from 0 to `ceiling`, S the selected filters, m = 0 for them
and 1 for the others, and the sum over the layers l that are pruned:

    cross entropy + s sum_l [ 1000 / N_l^2 |W_l W_l^T * (1 - m m^T)|_F^2 + 1/2 sum_S (|W_j|^2 + g_j^2 + b_j^2) ]

g and b are the scale and shift of the normalization that follows, and the layer's own bias. The paper's formula has 1/2
instead of 1000 / N^2 (`gram: sum`) and no |W_j|^2 (`decay: false`).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import Field, StrictBool

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.field_types import NonNegative
from compressor.methods._training import GrowingPenalty, PenaltyTraining
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import decay_pruned, gram_mean, gram_sum, zero_start


class TPP(Method, name="tpp"):
    """As released for CIFAR-10: 110,000 iterations before the removal, which are 281 epochs of 50,000 images."""

    training: PenaltyTraining = PenaltyTraining()
    growing: GrowingPenalty = GrowingPenalty()
    gram: Literal["mean", "sum"] = Field(
        default="mean",
        description="orthogonality term: mean = |.|^2 / N^2, the released code; sum = |.|^2 / 2, the paper",
    )
    gram_weight: NonNegative | None = Field(
        default=None, description="factor on the orthogonality term; null = 1000 for mean and 1 for sum"
    )
    decay: StrictBool = Field(default=True, description="also penalize the weights of the selected filters")
    norms: StrictBool = Field(
        default=True, description="also penalize the scales, shifts and biases of the selected filters"
    )

    def penalty(self) -> Penalty:
        """Return the penalty of the training before the removal."""
        gradient, usual = (gram_mean, 1000.0) if self.gram == "mean" else (gram_sum, 1.0)
        weight = usual if self.gram_weight is None else self.gram_weight
        strength = self.growing.strength()
        terms = [
            *([PenaltyTerm(gradient, self.growing.strength(scale=weight))] if weight else ()),
            *([PenaltyTerm(decay_pruned, strength)] if self.decay else ()),
            *([PenaltyTerm(decay_pruned, strength, applies_to="norm_params")] if self.norms else ()),
        ]
        growth, hold = self.growing.growth_iterations(), self.growing.hold_iterations
        return Penalty(self.name, tuple(terms), partial(zero_start, growth=growth, hold=hold))

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        train = self.growing.train(self.training, self.penalty())
        return SelectChannels(l1, target), train, RemoveChannels()
