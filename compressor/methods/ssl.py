"""SSL-like group lasso: training with a penalty on the norm of every filter, then removal of the smallest.

Wen, Wu, Wang, Chen and Li, Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016, arXiv:1608.03665:
`loss + strength * sum_n |W_n|`, over the filters of the layers that are cut. Of the paper's groups these are the
filters; columns, shapes and whole layers are not penalised.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1
from compressor.methods._regularization import Count, Positive, Regularising
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import constant_strength, group_lasso


class SSL(Regularising, Method):
    name: ClassVar[str] = "ssl"
    needs_data: ClassVar[bool] = True

    epochs: Count = Field(default=30, description="length of the training with the penalty")
    lr: Positive = 0.01
    strength: Positive = Field(default=1e-3, description="factor on the sum of norms")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        """The first choice says which layers are penalised, the second which filters go."""
        lasso = Penalty("group lasso", (PenaltyTerm(group_lasso, partial(constant_strength, value=self.strength)),))
        return (
            SelectChannels(l1, selection),
            self.train(lasso, epochs=self.epochs),
            SelectChannels(l1, selection),
            RemoveChannels(),
        )
