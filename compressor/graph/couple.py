"""From a trace to channel groups: walk the operators, resolve what is tied, collect what lives in the same places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from compressor.core import ChannelGroup, Slot
from compressor.graph import rules
from compressor.graph.cost import CostModel, cost_model
from compressor.graph.provenance import Dims, Mixture, Provenance, Reading
from compressor.graph.trace import Trace

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import IntArray


@dataclass(frozen=True, slots=True)
class Attribute:
    """A size stored in a module: `fixed` entries plus one for each of these channels that is kept."""

    module: str
    name: str
    index: int | None  # entry of a tuple
    fixed: int
    channels: Mapping[str, IntArray]  # group name -> channels, with repetition


Entries = tuple["IntArray", "IntArray"]
"""For each entry of a dimension: the index of its group, -1 for none, and its channel in there."""


@dataclass(frozen=True, slots=True)
class MixedCall:
    """A call that mixes channels, with the entries of every dimension that has channels of some group."""

    number: int  # of the call in the trace
    args: Mapping[str, Mapping[int, Entries]]  # argument -> dimension
    outs: tuple[Mapping[int, Entries], ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """What can be cut from a module, and what that does to its sizes."""

    groups: tuple[ChannelGroup, ...]
    attributes: tuple[Attribute, ...]
    cost: CostModel
    whole: frozenset[str]  # source lines that take frozen channels apart place by place: blocks might go whole
    mixtures: tuple[MixedCall, ...]  # calls whose result depends on which channels of a group are there
    data_dependent: bool  # some sizes depend on the values of the input, and with them the multiply-adds


def couple(
    module: nn.Module,
    trace: Trace,
    readings: Mapping[str, Reading] = MappingProxyType({}),
    *,
    mixing: bool = False,
) -> Structure:
    """Walk the trace and group the channels that must stay or go together.

    `readings`: source line -> how the sizes of the operators it calls are understood; "plain" where nothing is said.
    `mixing`: channels that a normalisation mixes may go, too.
    """
    provenance = Provenance(module, trace, mixing=mixing)
    for number, call in enumerate(trace.calls):
        provenance.reading = readings.get(call.where, "plain")
        if provenance.reading == "fixed" and rules.has_sizes(call.op):
            rules.unknown(provenance, call, "sizes fixed in the code")
        else:
            rules.apply(provenance, call)
            if provenance.reading == "shut":
                for ref in (*call.refs(), *call.outs):
                    for dim in provenance.dims(ref):
                        provenance.freeze(dim, call, "sizes fixed in the code")
        provenance.finish(number, call)
    for ref in trace.outputs:
        for dim in provenance.dims(ref):
            if dim is not None:
                provenance.frozen.append((dim.atoms, "output of the model"))
    channels = _Channels(provenance)
    attributes = tuple(
        Attribute(each.module, each.name, each.index, *channels.split(each.atoms)) for each in provenance.attributes
    )
    whole = frozenset(where for where, atoms in provenance.taken_apart if channels.frozen(atoms))
    cost = cost_model(module, provenance, channels.groups, channels.group_of)
    mixtures = tuple(channels.mixed(each) for each in provenance.mixtures if channels.any(each.over))
    return Structure(channels.groups, attributes, cost, whole, mixtures, trace.data_dependent)


class _Channels:
    """Atoms resolved: which channel of which group each one is."""

    def __init__(self, provenance: Provenance) -> None:
        self._component = _components(provenance)
        reasons: dict[int, str] = {}
        for atoms, reason in provenance.frozen:
            for component in np.unique(self._component[atoms]).tolist():
                reasons.setdefault(component, reason)
        self._frozen = frozenset(reasons)
        self.group_of = np.full(provenance.atoms, -1, dtype=np.int64)
        self._channel_of = np.full(provenance.atoms, -1, dtype=np.int64)
        self.groups = tuple(self._collect(provenance, reasons))

    def frozen(self, atoms: IntArray) -> bool:
        """Whether none of the atoms can go."""
        return all(component in self._frozen for component in self._component[atoms].tolist())

    def any(self, parts: Iterable[IntArray]) -> bool:
        """Whether some of the atoms are channels of a group that can be cut."""
        found = np.concatenate([self.group_of[atoms] for atoms in parts])
        return any(self.groups[index].frozen is None for index in np.unique(found[found >= 0]).tolist())

    def mixed(self, mixture: Mixture) -> MixedCall:
        def entries(dims: Dims) -> dict[int, Entries]:
            found = {
                at: (self.group_of[dim.atoms], self._channel_of[dim.atoms])
                for at, dim in enumerate(dims)
                if dim is not None
            }
            return {at: each for at, each in found.items() if (each[0] >= 0).any()}

        args = {name: entries(dims) for name, dims in mixture.args.items()}
        return MixedCall(mixture.number, args, tuple(entries(dims) for dims in mixture.outs))

    def split(self, atoms: IntArray) -> tuple[int, dict[str, IntArray]]:
        """How many of the atoms are in no group, and the channels of the others by group name."""
        of = self.group_of[atoms]
        found = {
            self.groups[index].name: self._channel_of[atoms[of == index]] for index in np.unique(of[of >= 0]).tolist()
        }
        return int((of < 0).sum()), found

    def _collect(self, provenance: Provenance, reasons: Mapping[int, str]) -> Iterator[ChannelGroup]:
        """Components written by some layer, put together by the slots they occupy."""
        owners = [
            (name, index, dim.atoms)
            for name, dims in provenance.parameters.items()
            for index, dim in enumerate(dims)
            if dim is not None
        ]
        if not owners:
            return
        component = np.concatenate([self._component[atoms] for _, _, atoms in owners])
        slot = np.repeat(np.arange(len(owners)), [len(atoms) for _, _, atoms in owners])
        position = np.concatenate([np.arange(len(atoms)) for _, _, atoms in owners])
        writes = np.array([provenance.roles.get((name, index)) == "writer" for name, index, _ in owners])
        order = np.lexsort((position, slot, component))
        component, slot, position = component[order], slot[order], position[order]
        bounds = np.flatnonzero(np.diff(component, prepend=-1))
        found: dict[tuple[bytes, str | None], list[tuple[int, IntArray]]] = {}
        for begin, end in zip(bounds, (*bounds[1:], len(component)), strict=True):
            if writes[slot[begin:end]].any():
                reason = reasons.get(int(component[begin]))
                key = (slot[begin:end].tobytes(), reason)
                found.setdefault(key, []).append((int(component[begin]), position[begin:end]))
        names: dict[str, int] = {}
        channel_of = np.full(self._component.max() + 1, -1, dtype=np.int64)
        group_of = np.full(self._component.max() + 1, -1, dtype=np.int64)
        by_first_writer = sorted(found.items(), key=lambda item: _first_writer(item[0][0], writes))
        for index, ((signature, reason), members) in enumerate(by_first_writer):
            slots = np.frombuffer(signature, dtype=np.int64)
            first = int(np.flatnonzero(writes[slots])[0])
            members.sort(key=lambda member: int(member[1][first]))
            components = [component for component, _ in members]
            channel_of[components], group_of[components] = np.arange(len(members)), index
            table = np.stack([positions for _, positions in members])
            tensor = owners[slots[first]][0]
            base = tensor.rpartition(".")[0] or tensor
            names[base] = names.get(base, 0) + 1
            yield ChannelGroup(
                name=base if names[base] == 1 else f"{base}#{names[base]}",
                size=len(members),
                slots=tuple(
                    Slot(name, dim, table[:, slots == each], provenance.roles.get((name, dim), "affine"))
                    for each in np.unique(slots).tolist()
                    for name, dim, _ in (owners[each],)
                ),
                frozen=reason if reason or len(members) > 1 else "only one channel",
            )
        self._channel_of, self.group_of = channel_of[self._component], group_of[self._component]


def _first_writer(signature: bytes, writes: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, bytes]:
    slots = np.frombuffer(signature, dtype=np.int64)
    return int(slots[writes[slots]][0]), signature


def _components(provenance: Provenance) -> IntArray:
    """Component of every atom under the ties collected."""
    count = provenance.atoms
    if not provenance.edges:
        return np.arange(count, dtype=np.int64)
    a = np.concatenate([left for left, _ in provenance.edges])
    b = np.concatenate([right for _, right in provenance.edges])
    ties = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    return connected_components(ties, directed=False)[1].astype(np.int64)
