"""Shapes that operators with sizes should make after any removal. Where they make others, the code has a fixed size.

Code may go wrong without an error: with four heads in it, 2 x 16 removed channels still make 4 x 8. Or the error
comes later: a literal 16 beside a -1 fails where the result meets another tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compressor.core import PrunePlan
from compressor.graph.trace import CallId, Trace
from compressor.graph.width import Width


@dataclass(frozen=True, slots=True)
class ExpectedShape:
    """The result of one call of an operator with sizes."""

    call: CallId
    where: str  # its source line
    sizes: tuple[int | Width, ...]
    splits: bool  # channels into blocks

    def after(self, plan: PrunePlan) -> tuple[int, ...]:
        """Return the shape after a plan."""
        return tuple(size.after(plan) if isinstance(size, Width) else size for size in self.sizes)


def lines_of_other_shapes(shapes: Iterable[ExpectedShape], plan: PrunePlan, slim: Trace) -> list[str]:
    """List the source lines that make other shapes of what remains than the removal should leave.

    Args:
        shapes: What lines should make.
        plan: What was removed.
        slim: The trace of the smaller module. It may run fewer or other operators, of which nothing is said.

    Returns:
        The lines in the order in which they run, each once; empty where all shapes are as predicted.
    """
    expected = {shape.call: shape for shape in shapes}
    lines: dict[str, None] = {}
    for key, call in slim.identified():
        shape = expected.get(key)
        if shape is not None and shape.where == call.where and call.outs[0].shape != shape.after(plan):
            lines[call.where] = None
    return list(lines)
