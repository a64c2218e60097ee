"""Places of a file that stand for one line of the code it was exported from: the same node of every repeated block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.models.onnx_import.imported_module import NodeCall

DISTANCE = 3
"""Nodes that are alike have equal surroundings up to this many nodes away."""


def alike_places(steps: Sequence[NodeCall], operators: Mapping[str, str]) -> dict[str, set[str]]:
    """Find the places whose steps have the same operators around them, whatever their sizes.

    The surroundings are compared by refining a colour of every step by the colours of its neighbours (Weisfeiler and
    Leman, The reduction of a graph to canonical form, 1968).

    Args:
        steps: The steps of the file.
        operators: Module of a step -> its operator.

    Returns:
        Place -> the places alike, itself among them.
    """
    makers = {name: number for number, step in enumerate(steps) for name in step.outputs if name}
    inputs = [[makers.get(name, -1) for name in step.inputs] for step in steps]
    readers: dict[int, list[int]] = defaultdict(list)
    for number, made_by in enumerate(inputs):
        for maker in made_by:
            readers[maker].append(number)
    colours: list[object] = [operators[step.module] for step in steps]
    for _ in range(DISTANCE):
        before = [[None if maker < 0 else colours[maker] for maker in made_by] for made_by in inputs]
        after = [sorted(hash(colours[reader]) for reader in readers[number]) for number in range(len(steps))]
        colours = [hash((own, tuple(b), tuple(a))) for own, b, a in zip(colours, before, after, strict=True)]
    same: dict[object, set[str]] = defaultdict(set)
    for step, colour in zip(steps, colours, strict=True):
        same[colour].add(step.place)
    places: dict[str, set[str]] = defaultdict(set)
    for step, colour in zip(steps, colours, strict=True):
        places[step.place] |= same[colour]
    return dict(places)
