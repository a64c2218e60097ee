"""The origin of every entry of every tensor dimension, and which entries are kept or removed together.

A dimension of a parameter is a row of fresh *ids*, one for each entry. Operators pass ids on (a slice passes on part of
them, a concatenation joins them) and tie some together (an addition ties entry i of both sides). A dimension that is
None is fixed: batch, positions, the model's inputs. Ties are collected as edges and resolved once, at the end, so that
the analysis is linear in the number of operators and needs no recursion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.graph.arithmetic import learned
from compressor.graph.constants import constants
from compressor.graph.draws import draws_numbers
from compressor.graph.liveness import live_tensors
from compressor.graph.trace import Call, CallId, Ref, Trace
from compressor.graph.tracked import (
    Blank,
    Dim,
    Dims,
    MixedNormalization,
    Product,
    SizeInterpretation,
    TakenApart,
    TrackedSize,
    WeightApplication,
)

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import IntArray, Role


class ChannelTracker:
    """The state of the walk over a trace; rules (see rules/) read and extend it."""

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
        self.interpretation = SizeInterpretation.FOLLOW  # of the call at hand
        self.taken_apart: list[TakenApart] = []
        self.mixing = mixing  # whether channels may go that a normalization mixes with others
        self.mixed: list[IntArray] = []  # by the call at hand
        self.mixtures: list[MixedNormalization] = []
        self.draws: list[MixedNormalization] = []
        self.blank: dict[int, Blank] = {}  # by uid
        self.learned, self.constants, self.live = learned(trace), constants(trace), live_tensors(trace)
        self._dims: dict[int, Dims] = {}
        self._names = trace.tensors

    # ------------------------------------------------ reading

    def dims(self, ref: Ref) -> Dims:
        """Look up the dimensions of a tensor. A parameter gets its ids when it is first read."""
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
        """Create a dimension of new ids, tied to nothing."""
        self.id_count += size
        return Dim(np.arange(self.id_count - size, self.id_count, dtype=np.int64))

    # ------------------------------------------------ extending

    def set_dims(self, ref: Ref, dims: Sequence[Dim | None]) -> None:
        """Record the dimensions of a tensor.

        Args:
            ref: The tensor.
            dims: Its dimensions; None for fixed ones.
        """
        assert len(dims) == len(ref.shape), (ref, dims)
        assert all(dim is None or len(dim) == size for dim, size in zip(dims, ref.shape, strict=True)), (ref, dims)
        self._dims[ref.uid] = tuple(dims)

    def tie(self, a: IntArray, b: IntArray) -> None:
        """Tie entry i of `a` and entry i of `b`: they are kept or removed together.

        Args:
            a: Ids.
            b: Ids, of the same shape.
        """
        assert a.shape == b.shape, (a.shape, b.shape)
        if a is not b:
            self.edges.append((a.reshape(-1), b.reshape(-1)))

    def tie_or_freeze(self, a: Dim | None, b: Dim | None, call: Call, why: str) -> Dim | None:
        """Tie two dimensions of the same size; if one is fixed, freeze the other.

        Args:
            a: A dimension; None where it is fixed.
            b: The other dimension.
            call: The call, whose place is part of the reason.
            why: The reason, as users read it.

        Returns:
            The dimension of the result; None where it is fixed.
        """
        if a is None or b is None:
            either = b if a is None else a
            self.freeze(either, call, why)
            return None if either is not None and (either.repeated or either.blocks) else either
        self.tie(a.ids, b.ids)
        return min(a, b, key=lambda dim: (dim.repeated, not dim.blocks, dim.owner is None))

    def freeze(self, dim: Dim | None, call: Call, why: str) -> None:
        """Freeze a dimension: none of its entries can be removed.

        Args:
            dim: The dimension; None where it is fixed anyway.
            call: The call, whose place is part of the reason.
            why: The reason, as users read it.
        """
        if dim is not None:
            at = f" in {call.module}" if call.module else ""
            self.frozen.append((dim.ids, f"{why} ({call.op}{at}, {call.where})"))

    def mark_mixed(self, dim: Dim | None, call: Call, why: str) -> None:
        """Record that the call's result depends on how many of these entries there are.

        Args:
            dim: The dimension; None where it is fixed.
            call: The call, whose place is part of the reason.
            why: The reason, as users read it.
        """
        if not self.mixing:
            self.freeze(dim, call, why)
        elif dim is not None:
            self.mixed.append(dim.ids)

    def close_call(self, identity: CallId, call: Call) -> None:
        """Record what the call just walked has mixed, and what it draws random numbers for.

        Args:
            identity: Its identity in the trace.
            call: The call.
        """
        draws = draws_numbers(call)
        if not self.mixed and not draws:
            return
        args = {name: self.dims(ref) for name, ref in call.args.items() if isinstance(ref, Ref)}
        outs = tuple(self.dims(ref) for ref in call.outs)
        if self.mixed:
            self.mixtures.append(MixedNormalization(identity, args, outs, tuple(self.mixed)))
            self.mixed = []
        over = tuple(dim.ids for dims in (*args.values(), *outs) for dim in dims if dim is not None)
        if over and draws:
            self.draws.append(MixedNormalization(identity, args, outs, over))

    def set_role(self, dim: Dim | None, role: Role) -> None:
        """Record the role of a parameter's dimension.

        A tied weight may write channels in one place and read them in another. Removed ones are unread then, whatever
        is written to them.

        Args:
            dim: The dimension; ignored where it is no parameter's own.
            role: Whether it writes, reads or scales channels.
        """
        if dim is None or dim.owner is None:
            return
        for owner in (dim.owner, *dim.beside):
            known = self.roles.get(owner, ())
            self.roles[owner] = known if role in known else (*known, role)

    def bind_size_attributes(self, call: Call, dims: Sequence[Dim | None]) -> None:
        """Let integers that the calling module stores follow these sizes, unless its line is interpreted as FOLLOW.

        Args:
            call: The call.
            dims: The dimensions whose sizes are looked up.
        """
        if self.interpretation is not SizeInterpretation.FOLLOW:
            for dim in dims:
                self.bind_stored_sizes(call, dim)

    def fill_blank(self, ref: Ref, axis: int, dim: Dim | None) -> bool:
        """Write channels into a fixed dimension of a blank tensor, which becomes as wide as they are.

        Args:
            ref: The tensor.
            axis: The dimension.
            dim: The channels.

        Returns:
            False where the tensor is not blank.
        """
        axis, blank = axis % len(ref.shape), self.blank.get(ref.uid)
        if blank is None or self.dims(ref)[axis] is not None:
            return False
        if blank.base is not None:
            of_base = blank.axes[axis]
            if of_base is None or not self.fill_blank(blank.base, of_base, dim):
                return False
        elif blank.interpretation is not SizeInterpretation.FOLLOW:
            self.bind_stored_sizes(blank.call, dim)
        dims = list(self.dims(ref))
        dims[axis] = dim
        self.set_dims(ref, dims)
        return True

    def bind_stored_sizes(self, call: Call, dim: Dim | None) -> None:
        """Let every integer that the calling module stores and that equals this size follow it.

        Args:
            call: The call.
            dim: The dimension; None where it is fixed.
        """
        if dim is not None:
            stored = vars(self.modules[call.module]).items()
            names = [name for name, value in stored if type(value) is int and value == len(dim)]
            if dim.blocks and len(names) > 1:  # as many heads as places in a head
                names = [name for name in names if _counts_heads(name)] or names
            for name in names:
                self.bind_attribute(call, name, dim)

    def bind_output_sizes(self, call: Call, dims: Sequence[Dim | None]) -> None:
        """Let the sizes that a module stores for its result, one for each dimension, follow the dimensions.

        Args:
            call: The call.
            dims: The dimensions of its result.
        """
        if getattr(self.modules[call.module], "output_sizes", None) is not None:
            for index, dim in enumerate(dims):
                self.bind_attribute(call, "output_sizes", dim, index)

    def bind_attribute(self, call: Call, name: str, dim: Dim | None, index: int | None = None) -> bool:
        """Record that an attribute of the calling module is the size of a dimension.

        Args:
            call: The call.
            name: The attribute.
            dim: The dimension; None where it is fixed.
            index: Entry of a tuple; None for a plain number.

        Returns:
            False where the attribute has another value or cannot be set.
        """
        module = self.modules[call.module]
        value: Any = getattr(module, name, None)
        if dim is None or value is None or isinstance(getattr(type(module), name, None), property):
            return False
        if index is not None:
            value = value[index] if isinstance(value, tuple | list) and -len(value) <= index < len(value) else None
        if value != len(dim):
            return False
        self.attributes.append(TrackedSize(call.module, name, index, dim.ids))
        return True


def _counts_heads(name: str) -> bool:
    """Whether an attribute's name is that of a number of heads, and not of the size of one."""
    return "head" in name and not any(word in name for word in ("dim", "size", "width", "channels"))
