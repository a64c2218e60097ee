"""Computes sizes that depend on which channels are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.core import PrunePlan

if TYPE_CHECKING:
    from compressor.core import IntArray


@dataclass(frozen=True, slots=True)
class Width:
    """A size: `fixed` entries, plus one for each of these channels that is kept."""

    fixed: int
    channels: Mapping[str, IntArray]  # group name -> channels, with repetition

    def after(self, plan: PrunePlan) -> int:
        """Return the size after a plan."""
        return self.fixed + sum(
            int(plan.kept[name][channels].sum()) if name in plan.kept else len(channels)
            for name, channels in self.channels.items()
        )
