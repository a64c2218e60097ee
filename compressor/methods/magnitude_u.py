"""Magnitude-U: the smallest weights of the whole network are masked, then the others trained on.

Han, Pool, Tran and Dally, Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015,
arXiv:1506.02626; with one threshold for all layers instead of one for each.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Selection, Step
from compressor.methods.base import Method
from compressor.methods.unstructured import Unstructured
from compressor.methods.weighings import magnitude


class MagnitudeU(Unstructured, Method):
    name: ClassVar[str] = "magnitude-u"
    trained: ClassVar[bool] = True

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), self.mask(magnitude, selection)
