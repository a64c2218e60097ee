"""From a trace to channel groups: walk the operators, resolve ties, collect what occupies the same slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from compressor.core import ChannelGroup, Freeze, TensorSlot
from compressor.graph.activation_sizes import ActivationSizes, activation_sizes
from compressor.graph.compared_sizes import MAX_TRIALS
from compressor.graph.cost import CostModel, cost_model
from compressor.graph.expected_shapes import ChannelsOf, ExpectedShape
from compressor.graph.rules import table as rules
from compressor.graph.rules.base import freeze_operands
from compressor.graph.trace import CallId, Trace
from compressor.graph.tracked import Dim, Dims, MixedNormalization, SizeInterpretation, TakenApart, TrackedSize
from compressor.graph.tracker import ChannelTracker

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class SizeAttribute:
    """A size that a module stores: `fixed` entries plus one for each of these channels that is kept."""

    module: str
    name: str
    index: int | None  # entry of a tuple
    fixed: int
    channels: Mapping[str, IntArray]  # group name -> channels, with repetition


ChannelIndex = tuple["IntArray", "IntArray"]
"""For each entry of a dimension: the index of its group, -1 for none, and its channel in there."""


@dataclass(frozen=True, slots=True)
class NormalizationSite:
    """A call that mixes channels or draws for them, with those in every dimension of its arguments and results."""

    call: CallId
    args: Mapping[str, Mapping[int, ChannelIndex]]  # argument -> dimension
    outs: tuple[Mapping[int, ChannelIndex], ...]


@dataclass(frozen=True, slots=True)
class DependencyGraph:
    """The prunable channels of a module, and the effect of their removal on its sizes."""

    groups: tuple[ChannelGroup, ...]
    attributes: tuple[SizeAttribute, ...]
    cost: CostModel
    workload: ActivationSizes
    frozen_block_lines: frozenset[str]  # their reshape splits frozen channels; removing blocks may work there
    sibling_lines: frozenset[str]  # they split as a line does whose blocks are frozen; so may their blocks
    mixtures: tuple[NormalizationSite, ...]  # calls whose result depends on which channels of a group are there
    draws: tuple[NormalizationSite, ...]  # calls that draw random numbers for channels of a group
    expected_shapes: tuple[ExpectedShape, ...]  # of operators with sizes
    channels_of: ChannelsOf
    data_dependent: bool  # some sizes depend on the values of the input, and with them the multiply-adds


def build_dependency_graph(
    module: nn.Module,
    trace: Trace,
    interpretations: Mapping[str, SizeInterpretation] = MappingProxyType({}),
    *,
    mixing: bool = False,
    compared: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> DependencyGraph:
    """Walk a trace and group the channels that must be kept or removed together.

    Args:
        module: The module that was traced.
        trace: The trace.
        interpretations: Source line -> how the sizes of its operators are interpreted; "follow" for other lines.
        mixing: Whether channels may be removed that a normalisation mixes.
        compared: (module, attribute) that code compares with a size -> which of the dimensions of that size is meant,
            in the order in which the module's operators read them.

    Returns:
        The dependency graph.
    """
    tracker = ChannelTracker(module, trace, mixing=mixing)
    shapes = []
    for identity, call in trace.identified():
        tracker.interpretation = interpretations.get(call.where, "follow")
        if tracker.interpretation == "freeze_sized_ops" and rules.takes_sizes(call.op):
            freeze_operands(tracker, call, "sizes fixed in the code")
        else:
            splits = len(tracker.taken_apart)
            rules.apply_rule(tracker, call)
            if rules.takes_sizes(call.op) and call.outs:
                out, splits_channels = call.outs[0], len(tracker.taken_apart) > splits
                shapes.append(ExpectedShape(identity, call.where, tracker.dims(out), out.shape, splits_channels))
            if tracker.interpretation == "freeze_all":
                for ref in (*call.refs(), *call.outs):
                    for dim in tracker.dims(ref):
                        tracker.freeze(dim, call, "sizes fixed in the code")
        tracker.close_call(identity, call)
    for (path, name), place in compared.items():
        dims = list(islice(_read_inside(tracker, trace, path, getattr(tracker.modules[path], name)), MAX_TRIALS))
        if place < len(dims):
            tracker.attributes.append(TrackedSize(path, name, None, dims[place].ids))
    for ref in trace.outputs:
        for dim in tracker.dims(ref):
            if dim is not None:
                tracker.frozen.append((dim.ids, "output of the model"))
    channels = _Channels(tracker)
    stored = (
        SizeAttribute(tracked.module, tracked.name, tracked.index, *channels.split(tracked.ids))
        for tracked in tracker.attributes
    )
    attributes = tuple(size for size in stored if size.channels)  # others, such as a number of repeats, do not change
    frozen_block_lines, sibling_lines = _block_lines(tracker.taken_apart, channels)
    cost = cost_model(module, tracker, channels.groups, channels.group_of)
    mixtures, draws = (
        tuple(channels.mixed(site) for site in sites if channels.any(site.over))
        for sites in (tracker.mixtures, tracker.draws)
    )
    sizes = activation_sizes(trace, tracker, channels.groups, channels.group_of)
    return DependencyGraph(
        channels.groups,
        attributes,
        cost,
        sizes,
        frozen_block_lines,
        sibling_lines,
        mixtures,
        draws,
        tuple(shapes),
        channels.split,
        trace.data_dependent,
    )


def _block_lines(lines: Sequence[TakenApart], channels: _Channels) -> tuple[frozenset[str], frozenset[str]]:
    """The source lines that should lose blocks: those whose places are frozen, and those beside frozen blocks.

    q, k and v are combined head by head. The places of q and k are summed over, those of v are not, so that only a
    sibling line shows that v consists of heads, too: one of the same module, with as many places in a block.
    """
    frozen_block_lines = frozenset(line.where for line in lines if not line.in_blocks and channels.frozen(line.ids))
    frozen = {(line.module, line.places) for line in lines if line.in_blocks and channels.frozen(line.ids)}
    beside = (line.where for line in lines if not line.in_blocks and (line.module, line.places) in frozen)
    return frozen_block_lines, frozenset(beside)


def _read_inside(tracker: ChannelTracker, trace: Trace, path: str, size: int) -> Iterator[Dim]:
    """The distinct dimensions of that size that operators of a module read and write beside its parameters."""
    yielded: set[bytes] = set()
    for call in trace.calls:
        if call.module == path or not path or call.module.startswith(f"{path}."):
            for ref in (*call.refs(), *call.outs):
                for dim in tracker.dims(ref) if ref.uid not in trace.tensors else ():
                    if dim is not None and len(dim) == size and dim.ids.tobytes() not in yielded:
                        yielded.add(dim.ids.tobytes())
                        yield dim


class _Channels:
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

    def frozen(self, ids: IntArray) -> bool:
        """Whether none of the ids can be removed."""
        return bool((self._why[self._component[ids]] >= 0).all())

    def any(self, parts: Iterable[IntArray]) -> bool:
        """Whether some ids are channels of a prunable group."""
        groups = np.concatenate([self.group_of[ids] for ids in parts])
        return any(self.groups[index].frozen is None for index in np.unique(groups[groups >= 0]).tolist())

    def mixed(self, mixture: MixedNormalization) -> NormalizationSite:
        def entries(dims: Dims) -> dict[int, ChannelIndex]:
            channels = {
                axis: (self.group_of[dim.ids], self._channel_of[dim.ids])
                for axis, dim in enumerate(dims)
                if dim is not None
            }
            return {axis: index for axis, index in channels.items() if (index[0] >= 0).any()}

        args = {name: entries(dims) for name, dims in mixture.args.items()}
        return NormalizationSite(mixture.call, args, tuple(entries(dims) for dims in mixture.outs))

    def split(self, ids: IntArray) -> tuple[int, dict[str, IntArray]]:
        """The number of ids in no group, and the channels of the others by group name."""
        of = self.group_of[ids]
        channels = {
            self.groups[index].name: self._channel_of[ids[of == index]] for index in np.unique(of[of >= 0]).tolist()
        }
        return int((of < 0).sum()), channels

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
    ties = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    return connected_components(ties, directed=False)[1].astype(np.int64)
