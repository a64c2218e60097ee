"""SynFlow: weights that carry least of what flows from input to output are masked, round by round and without data.

Tanaka, Kunin, Yamins and Ganguli, Pruning neural networks without any data by iteratively conserving synaptic flow,
NeurIPS 2020, arXiv:2006.05467: with all numbers at their absolute values and R the sum of the answers to an input of
ones, `w dR/dw`. These sum to R in every layer, so that rounds small enough never empty one.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.budget.target import PruningTarget
from compressor.criteria.synaptic_flow import SynapticFlow
from compressor.methods._regularization import Count
from compressor.methods._unstructured import InRounds, Unstructured
from compressor.methods.base import Method
from compressor.steps.base import Step


class SynFlow(InRounds, Unstructured, Method):
    name: ClassVar[str] = "synflow"

    rounds: Count = 100

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), self.mask(SynapticFlow(), selection, self.shares(selection))
