"""Shapes that operators with sizes should make after any removal. Where they make others, the code has a fixed size.

Code may go wrong without an error: with four heads in it, 2 x 16 removed channels still make 4 x 8. Or the error
comes later: a literal 16 beside a -1 fails where the result meets another tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
class ExpectedShape:
    """The result of one call of an operator with sizes."""

    call: CallId
    where: str  # its source line
    dims: Dims
    sizes: tuple[int, ...]
    splits: bool  # channels into blocks

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


def lines_of_other_shapes(
    shapes: Iterable[ExpectedShape], channels_of: ChannelsOf, plan: PrunePlan, slim: Trace
) -> list[str]:
    """List the source lines that make other shapes of what remains than the removal should leave.

    Args:
        shapes: What lines should make.
        channels_of: The channels of ids.
        plan: What was removed.
        slim: The trace of the smaller module. It may run fewer or other operators, of which nothing is said.

    Returns:
        The lines in the order in which they run, each once; empty where all shapes are as predicted.
    """
    expected = {shape.call: shape for shape in shapes}
    lines: dict[str, None] = {}
    for key, call in slim.identified():
        shape = expected.get(key)
        if shape is not None and shape.where == call.where and call.outs[0].shape != shape.after(plan, channels_of):
            lines[call.where] = None
    return list(lines)


def _kept(fixed: int, channels: Mapping[str, IntArray], plan: PrunePlan) -> int:
    """Number of entries that remain: `fixed`, and those of channels that are kept."""
    return fixed + sum(
        int(plan.kept[group][index].sum()) if group in plan.kept else len(index) for group, index in channels.items()
    )
