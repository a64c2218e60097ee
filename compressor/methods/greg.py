"""GReg: train with a growing L2 penalty on the filters that will be removed, then remove them.

Wang, Qin, Zhang and Fu, Neural Pruning via Growing Regularization, ICLR 2021, arXiv:2012.09243. The penalty adds `s w`
to the gradient of a weight w. GReg-1 selects filters by mean |w|; s of the selected filters then grows by `growth`
every `update_interval` iterations up to `ceiling`. GReg-2 first lets a small s grow on all filters alike, which
separates those that the loss holds on to from the others; it selects after that, and the filters that are kept then get
a negative s. The scales and shifts of normalizations are not penalized, so the removal is not lossless. The released
code also ends GReg-1 once kept filters are 1000 times as large as the selected ones; here all iterations are done.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.field_types import Count, NonNegative, Positive
from compressor.methods._training import GrowingPenalty, PenaltyTraining
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import constant_strength, decay, decay_kept, decay_pruned


class GReg1(Method, name="greg-1"):
    """As released for CIFAR: 110,000 iterations before the removal."""

    training: PenaltyTraining = PenaltyTraining()
    growing: GrowingPenalty = GrowingPenalty()

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        push = Penalty("greg-1", (PenaltyTerm(decay_pruned, self.growing.strength()),))
        return SelectChannels(l1, target), self.growing.train(self.training, push), RemoveChannels()


class GReg2(Method, name="greg-2"):
    """As released for CIFAR: 10,000 iterations to pick and 109,000 to push. `epochs` is the length of the push."""

    training: PenaltyTraining = PenaltyTraining()
    growing: GrowingPenalty = GrowingPenalty()
    pick_epochs: Count | None = Field(
        default=None, description="length of the pick in epochs; null = the iterations in which its strength grows"
    )
    pick_growth: Positive = Field(default=1e-5, description="what each update adds to the strength during the pick")
    pick_ceiling: Positive = Field(default=0.01, description="strength at which the pick ends")
    recover: NonNegative = Field(default=1e-4, description="negative strength on the kept filters during the push")

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        """The first selection only says which layers are penalized; the second says which filters are removed."""
        picking = GrowingPenalty(
            epochs=self.pick_epochs,
            growth=self.pick_growth,
            update_interval=self.growing.update_interval,
            ceiling=self.pick_ceiling,
            hold_iterations=0,
        )
        pick = Penalty("greg-2 pick", (PenaltyTerm(decay, picking.strength()),))
        recovery = PenaltyTerm(decay_kept, partial(constant_strength, value=-self.recover))
        strength = self.growing.strength(start=self.pick_ceiling)
        push = Penalty("greg-2 push", (PenaltyTerm(decay_pruned, strength), recovery))
        return (
            SelectChannels(l1, target),
            picking.train(self.training, pick),
            SelectChannels(l1, target),
            self.growing.train(self.training, push, start=self.pick_ceiling),
            RemoveChannels(),
        )
