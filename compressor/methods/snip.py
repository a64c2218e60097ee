"""SNIP: weights whose removal would change the loss least are masked, all at once and mostly before any training.

Lee, Ajanthan and Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019, arXiv:1810.02340:
`|w dL/dw|`, the sensitivity of the loss to a gate on each weight, compared over the whole network. Published with one
batch; 5 and the running statistics of BatchNorm are those of SNIP-it (arXiv:2006.00896).
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Selection, Step
from compressor.methods.base import Method
from compressor.methods.unstructured import Sensitive, Unstructured


class Snip(Sensitive, Unstructured, Method):
    name: ClassVar[str] = "snip"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), self.mask(self.sensitivity(self.name), selection)
