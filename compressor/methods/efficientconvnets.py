"""EfficientConvNets: the same share of every layer's filters, the smallest by mean |w|, before any training.

What Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710, became as a baseline of Rachwan et
al., Winning the Lottery Ahead of Time, ICML 2022, arXiv:2206.10451 (prune.scope: local). It says nothing about L1
pruning of a trained network, which is the method l1.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Choose, Remove, Selection, Step
from compressor.methods.base import Method
from compressor.methods.beginning import Beginning
from compressor.methods.criteria import l1


class EfficientConvNets(Beginning, Method):
    name: ClassVar[str] = "efficientconvnets"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), Choose(l1, selection), Remove()
