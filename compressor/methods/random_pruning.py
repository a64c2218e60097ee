"""Random-S: the same share of every layer's channels, drawn by lot; what every criterion has to beat.

As the baseline of Rachwan et al., Winning the Lottery Ahead of Time, ICML 2022, arXiv:2206.10451 (prune.scope: local).
Layers that share their channels lose the same ones; there each draws its own.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.budget.target import PruningTarget
from compressor.criteria.random_scores import random_scores
from compressor.methods._unstructured import Unstructured
from compressor.methods.base import Method
from compressor.methods.beginning import Beginning
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels


class RandomS(Beginning, Method):
    name: ClassVar[str] = "random-s"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), SelectChannels(random_scores, selection), RemoveChannels()


class RandomU(Unstructured, Method):
    name: ClassVar[str] = "random-u"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), self.mask(random_scores, selection)
