"""Random pruning, which every criterion has to beat: the same share of the channels of every layer, or random weights.

The baseline of Rachwan et al., Winning the Lottery Ahead of Time, ICML 2022, arXiv:2206.10451 (prune.scope: local).
Layers that share their channels lose the same ones here; in the paper's code each layer chooses its own.
"""

from __future__ import annotations

from compressor.budget.target import PruningTarget
from compressor.criteria.random_scores import random_scores
from compressor.methods._shared import GlobalMask, Start, initial_weights
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels


class RandomS(Method, name="random-s", trained=False):
    """Remove random channels, before any training."""

    start: Start = "given"

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return *initial_weights(self.start), SelectChannels(random_scores, target), RemoveChannels()


class RandomU(Method, name="random-u", trained=False, unstructured=True):
    """Mask random weights, before any training."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return *initial_weights(self.start), self.mask.step(random_scores, target)
