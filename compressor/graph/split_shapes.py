"""Shapes that lines make which split channels into blocks, after any removal.

Code may split wrongly without an error: with four heads written in it, 2 x 16 removed channels still make 4 x 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.core import PrunePlan
from compressor.graph.trace import CallId, Trace
from compressor.graph.tracked import Dims

if TYPE_CHECKING:
    from compressor.core import IntArray

ChannelsOf = Callable[["IntArray"], tuple[int, Mapping[str, "IntArray"]]]
"""ids -> the number of them in no group, and the channels of the others by group name."""


@dataclass(frozen=True, slots=True)
class SplitShape:
    """The result of one call that splits channels into blocks."""

    call: CallId
    where: str  # its source line
    dims: Dims
    sizes: tuple[int, ...]

    def after(self, plan: PrunePlan, channels_of: ChannelsOf) -> tuple[int, ...]:
        """Predict the shape.

        Args:
            plan: What is removed.
            channels_of: The channels of ids.

        Returns:
            The shape after the removal.
        """
        return tuple(
            size if dim is None else _kept(*channels_of(dim.ids), plan)
            for dim, size in zip(self.dims, self.sizes, strict=True)
        )


def split_otherwise(shapes: Sequence[SplitShape], channels_of: ChannelsOf, plan: PrunePlan, slim: Trace) -> set[str]:
    """Find the source lines that split what remains into other blocks than those that are removed.

    Args:
        shapes: What lines make.
        channels_of: The channels of ids.
        plan: What was removed.
        slim: The trace of the smaller module. It may run fewer or other operators, of which nothing is said.

    Returns:
        The lines, empty where all are as predicted.
    """
    calls = dict(slim.identified())
    return {
        shape.where
        for shape in shapes
        if shape.call in calls
        and calls[shape.call].where == shape.where
        and calls[shape.call].outs[0].shape != shape.after(plan, channels_of)
    }


def _kept(fixed: int, channels: Mapping[str, IntArray], plan: PrunePlan) -> int:
    """Number of entries that remain: `fixed`, and those of channels that are kept."""
    return fixed + sum(
        int(plan.kept[group][index].sum()) if group in plan.kept else len(index) for group, index in channels.items()
    )
