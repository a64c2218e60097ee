"""SynFlow: mask the weights that carry the least synaptic flow in many rounds, without data.

Tanaka, Kunin, Yamins and Ganguli, Pruning Neural Networks Without Any Data by Iteratively Conserving Synaptic Flow,
NeurIPS 2020, arXiv:2006.05467. With every parameter replaced by its absolute value and R the sum of the outputs for an
input of ones, the score of a weight is `w dR/dw`. The scores of every layer sum to R, so that small enough rounds never
empty a layer.
"""

from __future__ import annotations

from compressor.budget.target import PruningTarget
from compressor.criteria.synaptic_flow import SynapticFlow
from compressor.methods._rounds import PruningRounds
from compressor.methods._shared import GlobalMask, Start, final_share, initial_weights
from compressor.methods.base import Method
from compressor.steps.base import Step


class SynFlow(Method, name="synflow", trained=False, unstructured=True):
    """100 rounds, as published."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    progress: PruningRounds = PruningRounds(rounds=100)

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        shares = self.progress.remaining(final_share(target))
        return *initial_weights(self.start), self.mask.step(SynapticFlow(), target, shares)
