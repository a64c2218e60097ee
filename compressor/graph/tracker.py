"""Where every entry of every tensor dimension comes from, and which entries must stay or go together.

A dimension of a parameter is a row of fresh *ids*, one an entry. Operators hand ids on (a slice hands on part of
them, a concatenation joins them) and tie some together (an addition ties entry i of both sides). A dimension that is
None is fixed: batch, positions, the model's inputs. Ties are collected as edges and resolved once, at the end, so the
whole analysis is linear in the number of operators and needs no recursion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from compressor.core import Layer
from compressor.graph.arithmetic import learned
from compressor.graph.trace import Call, Ref, Trace

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import IntArray, Role


@dataclass(frozen=True, slots=True, eq=False)
class Dim:
    """A prunable dimension: its ids (size,), and the tensor dimension they index when it is a parameter's own.

    `beside`: dimensions of other parameters that are added to it or multiplied with it before they are at work.
    `repeated`: one entry again and again, as expanding makes it, which takes on the size of whatever it meets.
    `blocks`: whole blocks of a larger dimension, such as attention heads.
    """

    ids: IntArray
    owner: tuple[str, int] | None = None
    beside: tuple[tuple[str, int], ...] = ()
    repeated: bool = False
    blocks: bool = False

    def __len__(self) -> int:
        return len(self.ids)


Dims = tuple[Dim | None, ...]

SizeInterpretation = Literal["follow", "rewrite_attributes", "remove_blocks", "freeze_sized_ops", "freeze_all"]
"""How a source line is understood whose sizes may be fixed in the code, in the order they are tried.

plain: sizes follow the tensor. named: integers the module stores are sizes, and are rewritten. blocks: so too, and a
dimension taken apart loses whole blocks (attention heads) and not the same places in each. fixed: what operators with
sizes touch stays whole. shut: what any operator touches does.
"""
SIZE_INTERPRETATIONS: tuple[SizeInterpretation, ...] = (
    "follow",
    "rewrite_attributes",
    "remove_blocks",
    "freeze_sized_ops",
    "freeze_all",
)


@dataclass(frozen=True, slots=True)
class WeightApplication:
    """A convolution's or linear layer's weight at work: multiply-adds = repeats * product of its dimensions.

    The weight's own dimensions come first; the rest are places of the input that are channels of some layer.
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
    """`module.name` (or its entry `index`) equals the number of these ids that are kept."""

    module: str
    name: str
    index: int | None
    ids: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class TakenApart:
    """A dimension of blocks x places that a source line takes apart; `ids`: the places that go, or the blocks."""

    where: str
    module: str
    places: int  # of one block
    ids: IntArray
    in_blocks: bool  # whole blocks go, and not the same places of each


@dataclass(frozen=True, slots=True, eq=False)
class MixedNormalization:
    """A call whose result depends on which channels there are: a norm, a mean over channels."""

    number: int  # of the call in the trace
    args: Mapping[str, Dims]
    outs: tuple[Dims, ...]
    over: tuple[IntArray, ...]  # the ids that are mixed


@dataclass(frozen=True, slots=True)
class Blank:
    """A tensor of one repeated value, which takes on the sizes of what is written into it, or a view of one."""

    call: Call  # that made it
    interpretation: SizeInterpretation  # of the line that made it
    base: Ref | None = None  # what it is a view of
    axes: tuple[int | None, ...] = ()  # of the base, for each of its own; None for one it holds a part of


class ChannelTracker:
    """What is known while the trace is walked; rules (see rules.py) read and extend it."""

    def __init__(self, module: nn.Module, trace: Trace, *, mixing: bool = False) -> None:
        self.modules = dict(module.named_modules())
        self.edges: list[tuple[IntArray, IntArray]] = []
        self.frozen: list[tuple[IntArray, str]] = []
        self.roles: dict[tuple[str, int], tuple[Role, ...]] = {}
        self.weights: list[WeightApplication] = []
        self.products: list[Product] = []
        self.attributes: list[TrackedSize] = []
        self.parameters: dict[str, Dims] = {}
        self.id_count = 0
        self.interpretation: SizeInterpretation = "follow"  # of the call at hand
        self.taken_apart: list[TakenApart] = []
        self.mixing = mixing  # whether channels may go that a normalisation mixes with others
        self.mixed: list[IntArray] = []  # by the call at hand
        self.mixtures: list[MixedNormalization] = []
        self.blank: dict[int, Blank] = {}  # by uid
        self.learned = learned(trace)
        self._dims: dict[int, Dims] = {}
        self._names = trace.tensors

    # ------------------------------------------------ reading

    def dims(self, ref: Ref) -> Dims:
        """Where the dimensions of a tensor come from. A parameter gets its ids when it is first read."""
        known = self._dims.get(ref.uid)
        if known is None:
            name = self._names.get(ref.uid)
            if name is None:
                return (None,) * len(ref.shape)
            known = tuple(
                Dim(self.fresh(size).ids, (name, index)) if size > 1 else None for index, size in enumerate(ref.shape)
            )
            self.parameters[name] = known
            self._dims[ref.uid] = known
        return known

    def fresh(self, size: int) -> Dim:
        """A dimension of new ids, tied to nothing yet."""
        self.id_count += size
        return Dim(np.arange(self.id_count - size, self.id_count, dtype=np.int64))

    # ------------------------------------------------ extending

    def set_dims(self, ref: Ref, dims: Sequence[Dim | None]) -> None:
        assert len(dims) == len(ref.shape), (ref, dims)
        assert all(dim is None or len(dim) == size for dim, size in zip(dims, ref.shape, strict=True)), (ref, dims)
        self._dims[ref.uid] = tuple(dims)

    def tie(self, a: IntArray, b: IntArray) -> None:
        """Entry i of `a` and entry i of `b` stay or go together."""
        assert a.shape == b.shape, (a.shape, b.shape)
        if a is not b:
            self.edges.append((a.reshape(-1), b.reshape(-1)))

    def tie_or_freeze(self, a: Dim | None, b: Dim | None, call: Call, why: str) -> Dim | None:
        """Tie two dimensions of the same size; if one is fixed, so is the other."""
        if a is None or b is None:
            either = b if a is None else a
            self.freeze(either, call, why)
            return None if either is not None and (either.repeated or either.blocks) else either
        self.tie(a.ids, b.ids)
        return min(a, b, key=lambda dim: (dim.repeated, not dim.blocks, dim.owner is None))

    def freeze(self, dim: Dim | None, call: Call, why: str) -> None:
        """None of these entries can be removed."""
        if dim is not None:
            at = f" in {call.module}" if call.module else ""
            self.frozen.append((dim.ids, f"{why} ({call.op}{at}, {call.where})"))

    def mark_mixed(self, dim: Dim | None, call: Call, why: str) -> None:
        """The result depends on how many of these entries there are."""
        if not self.mixing:
            self.freeze(dim, call, why)
        elif dim is not None:
            self.mixed.append(dim.ids)

    def close_call(self, number: int, call: Call) -> None:
        """Note what the call just walked has mixed."""
        if self.mixed:
            args = {name: self.dims(ref) for name, ref in call.args.items() if isinstance(ref, Ref)}
            outs = tuple(self.dims(ref) for ref in call.outs)
            self.mixtures.append(MixedNormalization(number, args, outs, tuple(self.mixed)))
            self.mixed = []

    def set_role(self, dim: Dim | None, role: Role) -> None:
        """Note what a parameter's dimension does. A tied weight may write channels in one place and read them in
        another: removed ones are then unread, whatever is written to them."""
        if dim is None or dim.owner is None:
            return
        for owner in (dim.owner, *dim.beside):
            known = self.roles.get(owner, ())
            self.roles[owner] = known if role in known else (*known, role)

    def bind_size_attributes(self, call: Call, dims: Sequence[Dim | None]) -> None:
        """Every integer the calling module stores that equals one of these sizes follows it, where read so."""
        if self.interpretation != "follow":
            for dim in dims:
                self.bind_stored_sizes(call, dim)

    def fill_blank(self, ref: Ref, axis: int, dim: Dim | None) -> bool:
        """Write these channels into a fixed dimension: True where the tensor is blank, and so as wide as they are."""
        axis, blank = axis % len(ref.shape), self.blank.get(ref.uid)
        if blank is None or self.dims(ref)[axis] is not None:
            return False
        if blank.base is not None:
            of_base = blank.axes[axis]
            if of_base is None or not self.fill_blank(blank.base, of_base, dim):
                return False
        elif blank.interpretation != "follow":
            self.bind_stored_sizes(blank.call, dim)
        dims = list(self.dims(ref))
        dims[axis] = dim
        self.set_dims(ref, dims)
        return True

    def bind_stored_sizes(self, call: Call, dim: Dim | None) -> None:
        """Every integer the calling module stores that equals this size follows it."""
        if dim is not None:
            for name, value in vars(self.modules[call.module]).items():
                if type(value) is int and value == len(dim):
                    self.bind_attribute(call, name, dim)

    def bind_attribute(self, call: Call, name: str, dim: Dim | None, index: int | None = None) -> bool:
        """Note that an attribute of the calling module is the size of `dim`; False if it isn't."""
        module = self.modules[call.module]
        found: Any = getattr(module, name, None)
        if dim is None or found is None or isinstance(getattr(type(module), name, None), property):
            return False
        if index is not None:
            found = found[index] if isinstance(found, tuple | list) and -len(found) <= index < len(found) else None
        if found != len(dim):
            return False
        self.attributes.append(TrackedSize(call.module, name, index, dim.ids))
        return True
