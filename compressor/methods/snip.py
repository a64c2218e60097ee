"""SNIP: weights whose removal would change the loss least are masked, at once and mostly before any training.

Lee, Ajanthan and Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019, arXiv:1810.02340:
`|w dL/dw|`, the sensitivity of the loss to a gate on each weight, compared over the whole network.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Saliency, Selection, Step
from compressor.methods.base import Method
from compressor.methods.saliencies import connection
from compressor.methods.unstructured import Unstructured, Weighed


class Snip(Weighed, Unstructured, Method):
    name: ClassVar[str] = "snip"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        saliency = Saliency(self.name, connection, batches=self.batches, batch_size=self.batch_size)
        return (self.mask(saliency, selection),)
