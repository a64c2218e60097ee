"""From a trace to channel groups: walk the operators, resolve what is tied, collect what lives in the same places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from compressor.core import ChannelGroup, TensorSlot
from compressor.graph.activation_sizes import ActivationSizes, activation_sizes
from compressor.graph.compared_sizes import MOST
from compressor.graph.cost import CostModel, cost_model
from compressor.graph.rules import table as rules
from compressor.graph.rules.base import freeze_operands
from compressor.graph.trace import Trace
from compressor.graph.tracker import (
    ChannelTracker,
    Dim,
    Dims,
    MixedNormalization,
    SizeInterpretation,
    TakenApart,
    TrackedSize,
)

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import IntArray


@dataclass(frozen=True, slots=True)
class SizeAttribute:
    """A size stored in a module: `fixed` entries plus one for each of these channels that is kept."""

    module: str
    name: str
    index: int | None  # entry of a tuple
    fixed: int
    channels: Mapping[str, IntArray]  # group name -> channels, with repetition


ChannelIndex = tuple["IntArray", "IntArray"]
"""For each entry of a dimension: the index of its group, -1 for none, and its channel in there."""


@dataclass(frozen=True, slots=True)
class NormalizationSite:
    """A call that mixes channels, with the entries of every dimension that has channels of some group."""

    number: int  # of the call in the trace
    args: Mapping[str, Mapping[int, ChannelIndex]]  # argument -> dimension
    outs: tuple[Mapping[int, ChannelIndex], ...]


@dataclass(frozen=True, slots=True)
class DependencyGraph:
    """What can be cut from a module, and what that does to its sizes."""

    groups: tuple[ChannelGroup, ...]
    attributes: tuple[SizeAttribute, ...]
    cost: CostModel
    workload: ActivationSizes
    frozen_block_lines: frozenset[
        str
    ]  # source lines that take frozen channels apart place by place: blocks might go whole
    sibling_lines: frozenset[str]  # lines that do so beside one whose blocks are frozen: theirs might go whole with it
    mixtures: tuple[NormalizationSite, ...]  # calls whose result depends on which channels of a group are there
    data_dependent: bool  # some sizes depend on the values of the input, and with them the multiply-adds


def build_dependency_graph(
    module: nn.Module,
    trace: Trace,
    interpretations: Mapping[str, SizeInterpretation] = MappingProxyType({}),
    *,
    mixing: bool = False,
    compared: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> DependencyGraph:
    """Walk the trace and group the channels that must stay or go together.

    `interpretations`: source line -> how the sizes of the operators it calls are understood; "follow" by default.
    `mixing`: channels that a normalisation mixes may go, too.
    `compared`: (module, attribute) that code compares with a size -> which of the dimensions of that size is meant, in
    the order in which the module's operators read them.
    """
    tracker = ChannelTracker(module, trace, mixing=mixing)
    for number, call in enumerate(trace.calls):
        tracker.interpretation = interpretations.get(call.where, "follow")
        if tracker.interpretation == "freeze_sized_ops" and rules.takes_sizes(call.op):
            freeze_operands(tracker, call, "sizes fixed in the code")
        else:
            rules.apply_rule(tracker, call)
            if tracker.interpretation == "freeze_all":
                for ref in (*call.refs(), *call.outs):
                    for dim in tracker.dims(ref):
                        tracker.freeze(dim, call, "sizes fixed in the code")
        tracker.close_call(number, call)
    for (path, name), place in compared.items():
        dims = list(islice(_read_inside(tracker, trace, path, getattr(tracker.modules[path], name)), MOST))
        if place < len(dims):
            tracker.attributes.append(TrackedSize(path, name, None, dims[place].ids))
    for ref in trace.outputs:
        for dim in tracker.dims(ref):
            if dim is not None:
                tracker.frozen.append((dim.ids, "output of the model"))
    channels = _Channels(tracker)
    attributes = tuple(
        SizeAttribute(each.module, each.name, each.index, *channels.split(each.ids)) for each in tracker.attributes
    )
    whole, siblings = _in_blocks(tracker.taken_apart, channels)
    cost = cost_model(module, tracker, channels.groups, channels.group_of)
    mixtures = tuple(channels.mixed(each) for each in tracker.mixtures if channels.any(each.over))
    work = activation_sizes(trace, tracker, channels.groups, channels.group_of)
    return DependencyGraph(channels.groups, attributes, cost, work, whole, siblings, mixtures, trace.data_dependent)


def _in_blocks(lines: Sequence[TakenApart], channels: _Channels) -> tuple[frozenset[str], frozenset[str]]:
    """Source lines of which whole blocks should go: those whose places are frozen, and those beside frozen blocks.

    q, k and v meet head by head. The places of q and k are summed over, those of v are not, so that only a sibling
    line tells that v consists of heads, too: one of the same module, with as many places in a block.
    """
    whole = frozenset(line.where for line in lines if not line.in_blocks and channels.frozen(line.ids))
    frozen = {(line.module, line.places) for line in lines if line.in_blocks and channels.frozen(line.ids)}
    beside = (line.where for line in lines if not line.in_blocks and (line.module, line.places) in frozen)
    return whole, frozenset(beside)


def _read_inside(tracker: ChannelTracker, trace: Trace, path: str, size: int) -> Iterator[Dim]:
    """The dimensions of that size, each once, of what operators of a module read and write beside its parameters."""
    seen: set[bytes] = set()
    for call in trace.calls:
        if call.module == path or not path or call.module.startswith(f"{path}."):
            for ref in (*call.refs(), *call.outs):
                for dim in tracker.dims(ref) if ref.uid not in trace.tensors else ():
                    if dim is not None and len(dim) == size and dim.ids.tobytes() not in seen:
                        seen.add(dim.ids.tobytes())
                        yield dim


class _Channels:
    """Ids resolved: which channel of which group each one is."""

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

    def frozen(self, ids: IntArray) -> bool:
        """Whether none of the ids can go."""
        return bool((self._why[self._component[ids]] >= 0).all())

    def any(self, parts: Iterable[IntArray]) -> bool:
        """Whether some of the ids are channels of a group that can be cut."""
        found = np.concatenate([self.group_of[ids] for ids in parts])
        return any(self.groups[index].frozen is None for index in np.unique(found[found >= 0]).tolist())

    def mixed(self, mixture: MixedNormalization) -> NormalizationSite:
        def entries(dims: Dims) -> dict[int, ChannelIndex]:
            found = {
                at: (self.group_of[dim.ids], self._channel_of[dim.ids])
                for at, dim in enumerate(dims)
                if dim is not None
            }
            return {at: each for at, each in found.items() if (each[0] >= 0).any()}

        args = {name: entries(dims) for name, dims in mixture.args.items()}
        return NormalizationSite(mixture.number, args, tuple(entries(dims) for dims in mixture.outs))

    def split(self, ids: IntArray) -> tuple[int, dict[str, IntArray]]:
        """How many of the ids are in no group, and the channels of the others by group name."""
        of = self.group_of[ids]
        found = {
            self.groups[index].name: self._channel_of[ids[of == index]] for index in np.unique(of[of >= 0]).tolist()
        }
        return int((of < 0).sum()), found

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
        alike = [each for each in _alike(component, slot, position, self._why) if writes[each.slots].any()]
        names: dict[str, int] = {}
        channel_of = np.full(len(self._why), -1, dtype=np.int64)
        group_of = np.full(len(self._why), -1, dtype=np.int64)

        def place(each: _Alike) -> tuple[int, bytes, int]:
            return int(each.slots[writes[each.slots]][0]), each.slots.tobytes(), int(each.components[0])

        for index, each in enumerate(sorted(alike, key=place)):
            first = int(np.flatnonzero(writes[each.slots])[0])
            order = np.argsort(each.positions[:, first], kind="stable")
            channel_of[each.components[order]], group_of[each.components] = np.arange(len(order)), index
            table = each.positions[order]
            tensor = owners[each.slots[first]][0]
            base = tensor.rpartition(".")[0] or tensor
            names[base] = names.get(base, 0) + 1
            why = int(self._why[each.components[0]])
            yield ChannelGroup(
                name=base if names[base] == 1 else f"{base}#{names[base]}",
                size=len(order),
                slots=tuple(
                    TensorSlot(name, dim, table[:, each.slots == number], role)
                    for number in np.unique(each.slots).tolist()
                    for name, dim, _ in (owners[number],)
                    for role in tracker.roles.get((name, dim), ("per_channel",))
                ),
                frozen=reasons[why] if why >= 0 else "only one channel" if len(order) == 1 else None,
            )
        self._channel_of, self.group_of = channel_of[self._component], group_of[self._component]


@dataclass(frozen=True, slots=True, eq=False)
class _Alike:
    """Components that occupy the same slots, and are frozen for the same reason or not at all."""

    components: IntArray  # (C,)
    slots: IntArray  # (n,), one that holds several entries of a channel several times
    positions: IntArray  # (C, n)


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
    ties = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    return connected_components(ties, directed=False)[1].astype(np.int64)
