"""Random-U: weights masked by lot, the same chance for all of them: what every criterion has to beat.

As in de Jorge et al., Progressive Skeletonization, ICLR 2021, arXiv:2006.09081. Rachwan et al., arXiv:2206.10451, draw
for each weight by itself, so that their sparsity is what is asked for only on average; here it is exact.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Selection, Step
from compressor.methods.base import Method
from compressor.methods.unstructured import Unstructured
from compressor.methods.weighings import lots


class RandomU(Unstructured, Method):
    name: ClassVar[str] = "random-u"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), self.mask(lots, selection)
