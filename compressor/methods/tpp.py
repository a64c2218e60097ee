"""TPP, trainability preserving pruning: choose by mean |w|, push only the leaving filters to zero and away from the
others while training goes on, and take them out once they are zero.

Wang and Fu, Trainability Preserving Neural Pruning, ICLR 2023, arXiv:2207.12534. The loss of the released code, with
strength `s` growing from 0 to `ceiling`, S the leaving and m = 0 there, 1 elsewhere, over the layers that are cut:

    cross entropy + s sum_l [ 1000 / N_l^2 |W_l W_l^T * (1 - m m^T)|_F^2 + 1/2 sum_S (|W_j|^2 + g_j^2 + b_j^2) ]

g and b are scale and shift of the normalisation that follows, and the layer's own bias. The paper's formula weighs the
first term by 1/2 instead of 1000 / N^2 (`gram: sum`) and has no |W_j|^2 (`decay: false`).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.methods._regularization import Growing, NotNegative, Truth
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import decay_pruned, gram_mean, gram_sum, zero_start


class TPP(Growing, Method):
    """As released for CIFAR-10: 110,000 iterations before removal, 281 epochs of 50,000 images."""

    name: ClassVar[str] = "tpp"
    needs_data: ClassVar[bool] = True

    gram: Literal["mean", "sum"] = Field(
        default="mean", description="mean = the released code, |.|^2 / N^2; sum = the formula, |.|^2 / 2"
    )
    gram_weight: NotNegative | None = Field(
        default=None, description="factor on the strength of that term; null = 1000 for mean and 1 for sum"
    )
    decay: Truth = Field(default=True, description="shrink the weights of leaving filters too")
    norms: Truth = Field(default=True, description="shrink scales, shifts and biases of leaving channels too")

    def penalty(self) -> Penalty:
        pull, usual = (gram_mean, 1000.0) if self.gram == "mean" else (gram_sum, 1.0)
        weight = usual if self.gram_weight is None else self.gram_weight
        terms = [
            *([PenaltyTerm(pull, self.strength(scale=weight))] if weight else ()),
            *([PenaltyTerm(decay_pruned, self.strength())] if self.decay else ()),
            *([PenaltyTerm(decay_pruned, self.strength(), applies_to="affines")] if self.norms else ()),
        ]
        return Penalty(self.name, tuple(terms), partial(zero_start, rise=self.rise(), hold=self.hold))

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, selection), self.regularise(self.penalty()), RemoveChannels()
