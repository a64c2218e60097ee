"""Rules of operators that make tensors of given sizes."""

from __future__ import annotations

from dataclasses import replace

from compressor.graph.rules.base import OperatorRule, aten_rules
from compressor.graph.trace import Call
from compressor.graph.tracked import Blank
from compressor.graph.tracker import ChannelTracker


def _of_sizes(tracker: ChannelTracker, call: Call) -> None:
    """Tensors made from sizes alone are fixed.

    Those of one value are as large as what they are combined with, or as what is written into them.
    """
    for out in call.outs:
        tracker.set_dims(out, (None,) * len(out.shape))
        if out.uid in tracker.constants:
            dims = [replace(tracker.fresh(size), repeated=True) if size > 1 else None for size in out.shape]
            tracker.bind_size_attributes(call, dims)
            tracker.set_dims(out, dims)
        elif call.op.removeprefix("aten.new_").removeprefix("aten.") in ("zeros", "ones", "empty", "full"):
            tracker.blank[out.uid] = Blank(call, tracker.interpretation)


TAKES_SIZES = (_of_sizes,)
"""Rules of operators that take sizes, which code may have fixed."""

RULES: dict[str, OperatorRule] = {
    **aten_rules(_of_sizes, "zeros ones full arange empty rand randn linspace scalar_tensor eye"),
    **aten_rules(_of_sizes, "new_zeros new_ones new_empty new_full"),
}
