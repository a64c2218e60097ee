"""Ids resolved to channels and groups: components of ties, put together where they occupy the same slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.core import ChannelGroup, Freeze, TensorSlot
from compressor.graph.components import connected_components
from compressor.graph.expected_shapes import ExpectedShape
from compressor.graph.trace import CallId
from compressor.graph.tracked import Dim, Dims, MixedNormalization, TrackedShape
from compressor.graph.tracker import ChannelTracker
from compressor.graph.width import Width

if TYPE_CHECKING:
    from compressor.core import BoolArray, IntArray


ChannelIndex = tuple["IntArray", "IntArray"]
"""For each entry of a dimension: the index of its group, -1 for none, and its channel in there."""


@dataclass(frozen=True, slots=True)
class NormalizationSite:
    """A call that mixes channels or draws for them, with those in every dimension of its arguments and results."""

    call: CallId
    args: Mapping[str, Mapping[int, ChannelIndex]]  # argument -> dimension
    outs: tuple[Mapping[int, ChannelIndex], ...]


class Channels:
    """Ids resolved: the channel and group of each."""

    def __init__(self, tracker: ChannelTracker) -> None:
        self._component = _components(tracker)
        reasons = list(dict.fromkeys(reason for _, reason in tracker.frozen))
        number = {reason: index for index, reason in enumerate(reasons)}
        self._why = np.full(self._component.max(initial=0) + 1, -1, dtype=np.int64)  # of components; -1: not frozen
        for ids, reason in reversed(tracker.frozen):  # the first reason stands
            self._why[self._component[ids]] = number[reason]
        self.group_of = np.full(tracker.id_count, -1, dtype=np.int64)
        self._channel_of = np.full(tracker.id_count, -1, dtype=np.int64)
        self.groups = tuple(self._collect(tracker, reasons))
        self._widths: dict[Dim, Width] = {}

    def frozen(self, ids: IntArray) -> bool:
        """Whether none of the ids can be removed."""
        return bool((self._why[self._component[ids]] >= 0).all())

    def any(self, parts: Iterable[IntArray]) -> bool:
        """Whether some ids are channels of a prunable group."""
        groups = np.concatenate([self.group_of[ids] for ids in parts])
        return any(self.groups[index].frozen is None for index in np.unique(groups[groups >= 0]).tolist())

    def mixed(self, mixture: MixedNormalization) -> NormalizationSite:
        """A call that mixes channels, with those in its dimensions."""

        def entries(dims: Dims) -> dict[int, ChannelIndex]:
            channels = {
                axis: (self.group_of[dim.ids], self._channel_of[dim.ids])
                for axis, dim in enumerate(dims)
                if dim is not None
            }
            return {axis: index for axis, index in channels.items() if (index[0] >= 0).any()}

        args = {name: entries(dims) for name, dims in mixture.args.items()}
        return NormalizationSite(mixture.call, args, tuple(entries(dims) for dims in mixture.outs))

    def width(self, ids: IntArray) -> Width:
        """The size of a dimension of these ids."""
        of = self.group_of[ids]
        channels = {
            self.groups[index].name: self._channel_of[ids[of == index]] for index in np.unique(of[of >= 0]).tolist()
        }
        return Width(int((of < 0).sum()), channels)

    def shape(self, tracked: TrackedShape) -> ExpectedShape:
        """The shape that a call should make after any plan."""
        sizes = (
            size if dim is None else self._width_of(dim) for dim, size in zip(tracked.dims, tracked.sizes, strict=True)
        )
        return ExpectedShape(tracked.call, tracked.where, tuple(sizes), tracked.splits)

    def _width_of(self, dim: Dim) -> Width:
        """The width of a dimension, which many calls pass on."""
        if dim not in self._widths:
            self._widths[dim] = self.width(dim.ids)
        return self._widths[dim]

    def _collect(self, tracker: ChannelTracker, reasons: Sequence[str]) -> Iterator[ChannelGroup]:
        """Components written by some layer, put together by the slots they occupy."""
        owners = [
            (name, index, dim.ids)
            for name, dims in tracker.parameters.items()
            for index, dim in enumerate(dims)
            if dim is not None
        ]
        if not owners:
            return
        component = np.concatenate([self._component[ids] for _, _, ids in owners])
        slot = np.repeat(np.arange(len(owners)), [len(ids) for _, _, ids in owners])
        position = np.concatenate([np.arange(len(ids)) for _, _, ids in owners])
        writes = np.array(["writer" in tracker.roles.get((name, index), ()) for name, index, _ in owners])
        alike = [row for row in _alike(component, slot, position, self._why) if writes[row.slots].any()]
        names: dict[str, int] = {}
        channel_of = np.full(len(self._why), -1, dtype=np.int64)
        group_of = np.full(len(self._why), -1, dtype=np.int64)

        for index, row in enumerate(sorted(alike, key=lambda row: row.order(writes))):
            first = int(np.flatnonzero(writes[row.slots])[0])
            order = np.argsort(row.positions[:, first], kind="stable")
            channel_of[row.components[order]], group_of[row.components] = np.arange(len(order)), index
            table = row.positions[order]
            tensor = owners[row.slots[first]][0]
            base = tensor.rpartition(".")[0] or tensor
            names[base] = names.get(base, 0) + 1
            why = int(self._why[row.components[0]])
            reason = reasons[why] if why >= 0 else "only one channel" if len(order) == 1 else None
            yield ChannelGroup(
                name=base if names[base] == 1 else f"{base}#{names[base]}",
                size=len(order),
                slots=tuple(
                    TensorSlot(name, dim, table[:, row.slots == number], role)
                    for number in np.unique(row.slots).tolist()
                    for name, dim, _ in (owners[number],)
                    for role in tracker.roles.get((name, dim), ("per_channel",))
                ),
                frozen=Freeze("model", reason) if reason else None,
            )
        self._channel_of, self.group_of = channel_of[self._component], group_of[self._component]


@dataclass(frozen=True, slots=True, eq=False)
class _Alike:
    """Components that occupy the same slots, and are frozen for the same reason or not at all."""

    components: IntArray  # (C,)
    slots: IntArray  # (n,), one that holds several entries of a channel several times
    positions: IntArray  # (C, n)

    def order(self, writes: BoolArray) -> tuple[int, bytes, int]:
        """Sort key: the first slot that writes, all slots, the first component."""
        return int(self.slots[writes[self.slots]][0]), self.slots.tobytes(), int(self.components[0])


def _alike(component: IntArray, slot: IntArray, position: IntArray, why: IntArray) -> Iterator[_Alike]:
    """Entries (component, slot, position) as tables, one for all components that differ in positions only."""
    order = np.lexsort((position, slot, component))
    component, slot, position = component[order], slot[order], position[order]
    begins = np.flatnonzero(np.diff(component, prepend=-1))
    lengths = np.diff(begins, append=len(component))
    for length in np.unique(lengths).tolist():
        begin = begins[lengths == length]
        entries = begin[:, None] + np.arange(length)
        rows = np.column_stack([slot[entries], why[component[begin]]])
        _, kind_of = np.unique(rows, axis=0, return_inverse=True)
        by_kind = np.argsort(kind_of, kind="stable")
        for members in np.split(by_kind, np.cumsum(np.bincount(kind_of))[:-1]):
            yield _Alike(component[begin[members]], rows[members[0], :-1], position[entries[members]])


def _components(tracker: ChannelTracker) -> IntArray:
    """Component of every id under the ties collected."""
    count = tracker.id_count
    if not tracker.edges:
        return np.arange(count, dtype=np.int64)
    a = np.concatenate([left for left, _ in tracker.edges])
    b = np.concatenate([right for _, right in tracker.edges])
    return connected_components(count, a, b)
