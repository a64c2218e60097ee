"""From a trace to channel groups: walk the operators, resolve ties, collect what occupies the same slots."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from compressor.core import ChannelGroup
from compressor.graph.activation_sizes import ActivationSizes, activation_sizes
from compressor.graph.channels import Channels, NormalizationSite
from compressor.graph.compared_sizes import MAX_TRIALS
from compressor.graph.cost import CostModel, cost_model
from compressor.graph.expected_shapes import ExpectedShape
from compressor.graph.rules import table as rules
from compressor.graph.rules.base import freeze_operands
from compressor.graph.trace import Trace
from compressor.graph.tracked import (
    Dim,
    SizeInterpretation,
    TakenApart,
    TrackedShape,
    TrackedSize,
)
from compressor.graph.tracker import ChannelTracker
from compressor.graph.width import Width

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import IntArray


@dataclass(frozen=True, slots=True)
class SizeAttribute:
    """A size that a module stores."""

    module: str
    name: str
    index: int | None  # entry of a tuple
    width: Width


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
    data_dependent: bool  # some sizes depend on the values of the input, and with them the multiply-adds


def build_dependency_graph(
    module: nn.Module,
    trace: Trace,
    interpretations: Mapping[str, SizeInterpretation] = MappingProxyType({}),
    *,
    mixing: bool = False,
    compared: Mapping[tuple[str, str], int] = MappingProxyType({}),
    shared: Collection[tuple[str, str]] = (),
) -> DependencyGraph:
    """Walk a trace and group the channels that must be kept or removed together.

    Args:
        module: The module that was traced.
        trace: The trace.
        interpretations: Source line -> how the sizes of its operators are interpreted; FOLLOW for other lines.
        mixing: Whether channels may be removed that a normalization mixes.
        compared: (module, attribute) that code compares with a size -> which of the dimensions of that size is meant,
            in the order in which the module's operators read them.
        shared: (module, attribute) that holds the size of several dimensions; their entries i are tied, so that they
            stay equally many.

    Returns:
        The dependency graph.
    """
    tracker = ChannelTracker(module, trace, mixing=mixing)
    shapes = []
    for identity, call in trace.identified():
        tracker.interpretation = interpretations.get(call.where, SizeInterpretation.FOLLOW)
        if tracker.interpretation is SizeInterpretation.FREEZE_SIZED_OPS and rules.takes_sizes(call.op):
            freeze_operands(tracker, call, "sizes fixed in the code")
        else:
            splits = len(tracker.taken_apart)
            rules.apply_rule(tracker, call)
            if rules.takes_sizes(call.op) and call.outs:
                out, splits_channels = call.outs[0], len(tracker.taken_apart) > splits
                shapes.append(TrackedShape(identity, call.where, tracker.dims(out), out.shape, splits_channels))
            if tracker.interpretation is SizeInterpretation.FREEZE_ALL:
                for ref in (*call.refs(), *call.outs):
                    for dim in tracker.dims(ref):
                        tracker.freeze(dim, call, "sizes fixed in the code")
        tracker.close_call(identity, call)
    for (path, name), place in compared.items():
        dims = list(islice(_read_inside(tracker, trace, path, getattr(tracker.modules[path], name)), MAX_TRIALS))
        if place < len(dims):
            tracker.attributes.append(TrackedSize(path, name, None, dims[place].ids))
    _tie_sizes(tracker, shared)
    for ref in trace.outputs:
        for dim in tracker.dims(ref):
            if dim is not None:
                tracker.frozen.append((dim.ids, "output of the model"))
    channels = Channels(tracker)
    stored = (
        SizeAttribute(tracked.module, tracked.name, tracked.index, channels.width(tracked.ids))
        for tracked in tracker.attributes
    )
    attributes = tuple(size for size in stored if size.width.channels)  # others, such as numbers of repeats, are fixed
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
        tuple(channels.shape(shape) for shape in shapes),
        trace.data_dependent,
    )


def _tie_sizes(tracker: ChannelTracker, shared: Collection[tuple[str, str]]) -> None:
    first: dict[tuple[str, str, int | None], IntArray] = {}
    for size in tracker.attributes:
        if (size.module, size.name) in shared:
            tracker.tie(first.setdefault((size.module, size.name, size.index), size.ids), size.ids)


def _block_lines(lines: Sequence[TakenApart], channels: Channels) -> tuple[frozenset[str], frozenset[str]]:
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
