"""GReg: an L2 penalty that grows without bound on the filters that are to go, before they are taken out.

Wang, Qin, Zhang and Fu, Neural Pruning via Growing Regularization, ICLR 2021, arXiv:2012.09243. Added to the gradient
of a weight is `s w`. GReg-1 chooses by mean |w| and pushes: `s` of the leaving filters grows by `growth` every so many
iterations to `ceiling`. GReg-2 picks first: a small `s` grows on all filters alike, which parts those that the loss
holds on to from the others; then it chooses, and pushes from there on, while the filters that stay get `s < 0`.
Scales and shifts of channels are left alone, so that removal is not lossless.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.methods._regularization import Count, Growing, NotNegative, Positive
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import (
    constant_strength,
    decay,
    decay_kept,
    decay_pruned,
    stepwise_growth,
    strength_rise,
)


class GReg1(Growing, Method):
    """As released for CIFAR: 110,000 iterations before removal."""

    name: ClassVar[str] = "greg-1"
    needs_data: ClassVar[bool] = True

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        push = Penalty("greg-1", (PenaltyTerm(decay_pruned, self.strength()),))
        return SelectChannels(l1, selection), self.regularise(push), RemoveChannels()


class GReg2(Growing, Method):
    """As released for CIFAR: 10,000 iterations to pick and 109,000 to push. `epochs` is the length of the push."""

    name: ClassVar[str] = "greg-2"
    needs_data: ClassVar[bool] = True

    pick_epochs: Count | None = Field(default=None, description="length of the pick in epochs; null = its iterations")
    pick_growth: Positive = Field(default=1e-5, description="what each update adds to the strength while picking")
    pick_ceiling: Positive = Field(default=0.01, description="the strength at which picking ends")
    recover: NotNegative = Field(default=1e-4, description="strength, negated, on filters that stay while pushing")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        """The first choice says which layers are picked from, the second which filters go."""
        growth, every, ceiling = self.pick_growth, self.every, self.pick_ceiling
        picking = partial(stepwise_growth, growth=growth, every=every, ceiling=ceiling)
        pick = Penalty("greg-2 pick", (PenaltyTerm(decay, picking),))
        recovery = PenaltyTerm(decay_kept, partial(constant_strength, value=-self.recover))
        push = Penalty("greg-2 push", (PenaltyTerm(decay_pruned, self.strength(start=ceiling)), recovery))
        return (
            SelectChannels(l1, selection),
            self.train(pick, epochs=self.pick_epochs, iterations=strength_rise(growth, every, ceiling)),
            SelectChannels(l1, selection),
            self.regularise(push, start=ceiling),
            RemoveChannels(),
        )
