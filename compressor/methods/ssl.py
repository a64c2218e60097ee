"""SSL: train with a group lasso on filters, then remove the smallest ones.

Wen, Wu, Wang, Chen and Li, Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016, arXiv:1608.03665. The
loss is `loss + strength * sum_n |W_n|` over the filters of the layers that are pruned. Of the paper's groups these are
the filters; input channels, kernel shapes and whole layers are not penalized.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.field_types import Count, Positive
from compressor.methods._training import PenaltyTraining
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import constant_strength, group_lasso


class SSL(Method, name="ssl"):
    """Group lasso on filters, then L1 pruning."""

    training: PenaltyTraining = PenaltyTraining(lr=0.01)
    epochs: Count = Field(default=30, description="length of the training with the penalty, in epochs")
    strength: Positive = Field(default=1e-3, description="factor on the sum of the filters' norms")

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        """The first selection only says which layers are penalized; the second says which filters are removed."""
        lasso = Penalty("group lasso", (PenaltyTerm(group_lasso, partial(constant_strength, value=self.strength)),))
        return (
            SelectChannels(l1, target),
            self.training.step(lasso, epochs=self.epochs),
            SelectChannels(l1, target),
            RemoveChannels(),
        )
