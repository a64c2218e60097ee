"""Slices that together cut a tensor into equal parts, run as one split.

Exporters write `chunk` as slices whose bounds they compute from the width. One slice takes a fixed part of the
channels; a split removes the same places of every part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from compressor.models.onnx_import.imported_module import (
    ImportedModule,
    JoinedSlice,
    NodeCall,
    OperatorNode,
    place_module,
)
from compressor.models.onnx_import.node import Node
from compressor.models.onnx_import.operators import operators


@dataclass(frozen=True, slots=True)
class Cut:
    """What a Slice takes along its only axis, of so many entries; `path`: its module, `index`: its node in the file."""

    node: Node
    path: str
    index: int
    fixed: bool  # its bounds are constants
    axis: int
    begin: int
    end: int
    size: int


def join_slices(module: ImportedModule, steps: Sequence[NodeCall], cuts: Sequence[Cut]) -> list[NodeCall]:
    """Replace the slices that cut a tensor into equal parts by one split, where the first of them was.

    Args:
        module: The module, which gets the splits.
        steps: Its steps.
        cuts: The slices along one axis.

    Returns:
        The steps.
    """
    by_tensor: dict[tuple[str, int], list[Cut]] = {}
    for cut in cuts:
        by_tensor.setdefault((cut.node.inputs[0], cut.axis), []).append(cut)
    joined: dict[tuple[str, ...], NodeCall] = {}
    for (name, axis), parts in by_tensor.items():
        parts = sorted(parts, key=lambda cut: cut.begin)
        if not _cover_equally(parts):
            continue
        outputs = tuple(cut.node.outputs[0] for cut in parts)
        first = parts[0].node
        node = replace(first, op="Split", opset=18, inputs=(name,), outputs=outputs, attributes={"axis": axis})
        place = f"{module.file}:{first.name}"
        path = f"operators.split_{len(joined)}"
        path = place_module(module, path, OperatorNode(node, operators()["Split"], place, {}))
        joined[outputs] = NodeCall(path, (name,), outputs, place)
        for number, cut in enumerate(parts):
            _delete(module, cut.path)
            module.operators_written.remove((cut.path, cut.index))
            output, opset = cut.node.outputs[0], cut.node.opset
            module.joined.append(JoinedSlice(cut.index, cut.node.name, output, axis, number, opset, cut.fixed))
    made = {name: step for outputs, step in joined.items() for name in outputs}
    result: list[NodeCall] = []
    for step in steps:
        split = made.get(step.outputs[0]) if step.outputs else None
        if split is None:
            result.append(step)
        elif split not in result:
            result.append(split)
    return result


def _delete(module: nn.Module, path: str) -> None:
    owner, _, name = path.rpartition(".")
    delattr(module.get_submodule(owner), name)


def _cover_equally(parts: Sequence[Cut]) -> bool:
    count, size = len(parts), parts[0].size
    if count < 2 or size % count:
        return False
    return all((cut.begin, cut.end) == (at * size // count, (at + 1) * size // count) for at, cut in enumerate(parts))
