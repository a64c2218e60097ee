"""CroP-U: weights whose removal changes the gradient flow least are masked, before any training or early in it.

Rachwan, Zügner, Charpentier, Geisler, Ayle and Günnemann, Winning the Lottery Ahead of Time: Efficient Early Network
Pruning, ICML 2022, arXiv:2206.10451: `|w (H g)|`, the change of g g to first order. GraSP has the same product with its
sign; here the flow is to stay as it is. Their code scores by test images; these are training images.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Saliency, Selection, Step
from compressor.methods.base import Method
from compressor.methods.beginning import ByGradients
from compressor.methods.saliencies import gradient_flow
from compressor.methods.unstructured import Unstructured


def flow_kept(batches: int, batch_size: int) -> Saliency:
    """With the network in eval mode."""
    return Saliency("crop", gradient_flow, order=2, batches=batches, batch_size=batch_size)


class CropU(ByGradients, Unstructured, Method):
    name: ClassVar[str] = "crop-u"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), self.mask(flow_kept(self.batches, self.batch_size), selection)
