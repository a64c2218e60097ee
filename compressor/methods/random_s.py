"""Random-S: the same share of every layer's channels, drawn by lot; what every criterion has to beat.

As the baseline of Rachwan et al., Winning the Lottery Ahead of Time, ICML 2022, arXiv:2206.10451 (prune.scope: local).
Layers that share their channels lose the same ones; there each draws its own.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Choose, Remove, Selection, Step
from compressor.methods.base import Method
from compressor.methods.beginning import Beginning
from compressor.methods.criteria import lots


class RandomS(Beginning, Method):
    name: ClassVar[str] = "random-s"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), Choose(lots, selection), Remove()
