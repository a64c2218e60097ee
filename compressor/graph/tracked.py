"""What the walk over a trace records: dimensions of ids, and calls whose sizes or results depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import TYPE_CHECKING

from compressor.core import Layer
from compressor.graph.trace import Call, CallId, Ref

if TYPE_CHECKING:
    from compressor.core import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Dim:
    """A prunable dimension: its ids (size,), and the tensor dimension that they index where it is a parameter's own.

    `beside`: dimensions of other parameters that are added to it or multiplied with it before it is applied.
    `repeated`: one entry repeated, as in expanded and constant tensors; it is as large as what it is combined with.
    `blocks`: blocks of a larger dimension, such as attention heads.
    """

    ids: IntArray
    owner: tuple[str, int] | None = None
    beside: tuple[tuple[str, int], ...] = ()
    repeated: bool = False
    blocks: bool = False

    def __len__(self) -> int:
        return len(self.ids)


Dims = tuple[Dim | None, ...]


class SizeInterpretation(IntEnum):
    """How sizes on a source line are interpreted, in the order in which interpretations are tried."""

    FOLLOW = auto()
    """they follow the tensor"""
    REWRITE_ATTRIBUTES = auto()
    """integers that the module stores are sizes, and are rewritten"""
    REMOVE_BLOCKS = auto()
    """as before, and a dimension that is split loses blocks (attention heads), not the same places of each"""
    FREEZE_SIZED_OPS = auto()
    """dimensions that operators with sizes use are frozen"""
    FREEZE_ALL = auto()
    """every dimension that an operator uses is frozen"""


@dataclass(frozen=True, slots=True)
class WeightApplication:
    """One application of a layer's weight: multiply-adds = repeats * product of its dimensions.

    The weight's own dimensions come first; the others are positions of the input that are channels of some layer.
    """

    weight: Ref
    dims: Dims
    sizes: tuple[int, ...]
    repeats: int
    layer: Layer
    inputs: Dim | None
    outputs: Dim | None


@dataclass(frozen=True, slots=True)
class Product:
    """Multiply-adds beside those of convolutions and linear layers: the product of these sizes."""

    dims: Dims
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TrackedSize:
    """`module.name` (or its entry `index`) equals the number of kept entries among these ids."""

    module: str
    name: str
    index: int | None
    ids: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class TrackedShape:
    """The result of one call of an operator with sizes."""

    call: CallId
    where: str  # its source line
    dims: Dims
    sizes: tuple[int, ...]
    splits: bool  # channels into blocks


@dataclass(frozen=True, slots=True, eq=False)
class TakenApart:
    """A dimension of blocks x places that a source line splits; `ids`: the places or blocks that are removed."""

    where: str
    module: str
    places: int  # of one block
    ids: IntArray
    in_blocks: bool  # whole blocks go, and not the same places of each


@dataclass(frozen=True, slots=True, eq=False)
class MixedNormalization:
    """A call whose result depends on which channels are present: a norm, a mean over channels, random numbers."""

    call: CallId
    args: Mapping[str, Dims]
    outs: tuple[Dims, ...]
    over: tuple[IntArray, ...]  # the ids that are mixed, or that numbers are drawn for


@dataclass(frozen=True, slots=True)
class Blank:
    """A tensor of one repeated value, which takes on the sizes of what is written into it, or a view of one."""

    call: Call  # that made it
    interpretation: SizeInterpretation  # of the line that made it
    base: Ref | None = None  # what it is a view of
    axes: tuple[int | None, ...] = ()  # of the base, for each of its own; None for one it holds a part of
