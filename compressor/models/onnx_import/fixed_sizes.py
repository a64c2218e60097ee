"""Sizes that an ONNX file fixes, as integers of an operator, which surgery rewrites."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressor.models.onnx_import.imported_module import AS_COMPUTED, OperatorNode
from compressor.models.onnx_import.padding import PADS_ARE_INPUTS, as_padding, pad_axes
from compressor.models.onnx_import.values import HostArray, Value, ints, is_host


def decided_sizes(computed: Value, stored: HostArray | None, constant: Sequence[int | None]) -> HostArray | None:
    """Find the computed sizes of a Reshape or Expand that are the same for every input.

    Args:
        computed: The sizes; None or a tensor where they are none.
        stored: Which of them are constants of the file.
        constant: Which sizes are known to be the same for every input; empty where nothing is known.

    Returns:
        These sizes, and AS_COMPUTED for others; None where nothing is known.
    """
    if not is_host(computed) or stored is None:
        return None
    decided = np.where(stored, computed, AS_COMPUTED)
    for at, size in enumerate(constant if len(constant) == decided.size else ()):
        if computed[at] == size:
            decided[at] = size
    return decided


def set_fixed_sizes(operator: OperatorNode, rank: int, decided: HostArray | None) -> None:
    """Store the sizes of a Reshape, Expand, Split or Pad.

    Args:
        operator: The operator; `operator.fixed` holds its inputs that are constants.
        rank: Number of dimensions of what it works on.
        decided: Sizes that the graph computes, where they are no constant; AS_COMPUTED for those that inputs decide.
    """
    node, sizes = operator.node, operator.fixed.get(1)
    if node.op in ("Reshape", "Expand"):
        if sizes is not None:
            operator.output_sizes = tuple(ints(sizes))
        elif decided is not None:
            operator.output_sizes = tuple(ints(decided))
    elif node.op == "Split" and sizes is not None:
        operator.output_sizes = tuple(ints(sizes))
    elif node.op == "Split" and node.opset < 13 and node.get("split"):
        operator.output_sizes = tuple(node.get("split"))
    elif node.op == "Pad" and node.get("mode", "constant") == "constant":
        pads = node.get("pads") if node.opset < PADS_ARE_INPUTS else None if sizes is None else ints(sizes)
        if pads is not None and all(at in operator.fixed for at, name in enumerate(node.inputs) if at and name):
            operator.padding = as_padding(pads, pad_axes(rank, operator.fixed.get(3)), rank)
