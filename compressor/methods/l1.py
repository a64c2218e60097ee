"""L1-norm filter pruning: score each filter of the trained network by its mean |w|, remove the smallest, retrain.

Li, Kadav, Durdanovic, Samet and Graf, Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Choose, Remove, Selection, Step
from compressor.methods.base import Method
from compressor.methods.criteria import l1


class L1(Method):
    """Has no settings of its own: which layers, how much and how scores compare are the recipe's to say."""

    name: ClassVar[str] = "l1"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return Choose(l1, selection), Remove()
