"""The dense model as it would be without the channels a plan drops: what slim models are compared with.

Readers of dropped channels are zero. A norm, or a mean over channels, sees the kept channels only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compressor.execution.copies import copy_module
from compressor.graph.dependency_graph import ChannelIndex, DependencyGraph, NormalizationSite
from compressor.graph.rules import table as rules
from compressor.graph.trace import replay
from compressor.surgery.removal import removed_entries

if TYPE_CHECKING:
    from compressor.core import ChannelGroup, IntArray, PrunePlan


def with_readers_zeroed(dense: nn.Module, groups: Sequence[ChannelGroup], plan: PrunePlan) -> nn.Module:
    """A copy of `dense` in which nothing reads the channels the plan drops."""
    copied = copy_module(dense)
    tensors = dict(copied.named_parameters()) | dict(copied.named_buffers())
    with torch.no_grad():
        for (name, dim), gone in removed_entries(groups, plan, role="reader").items():
            tensors[name].index_fill_(dim, torch.from_numpy(gone), 0.0)
    return copied


def run_restricted(module: nn.Module, *inputs: Tensor, structure: DependencyGraph, plan: PrunePlan) -> Any:
    """`module(*inputs)`, where every call that mixes channels works on the kept ones; zeros take the others' places."""
    touched = [each for each in structure.mixtures if _touched(each, structure, plan)]
    handlers = {each.number: partial(_on_kept, each, structure, plan) for each in touched}
    return replay(module, *inputs, known=rules.has_rule, handlers=handlers) if handlers else module(*inputs)


def mixes_channels(structure: DependencyGraph, plan: PrunePlan) -> bool:
    """Whether the plan changes what some normalisation works on."""
    return any(_touched(each, structure, plan) for each in structure.mixtures)


def _touched(call: NormalizationSite, structure: DependencyGraph, plan: PrunePlan) -> bool:
    dims = (*call.args.values(), *call.outs)
    return any(len(_kept(each, structure, plan)) < len(each[0]) for entries in dims for each in entries.values())


def _kept(entries: ChannelIndex, structure: DependencyGraph, plan: PrunePlan) -> IntArray:
    """The entries of a dimension that stay."""
    group_of, channel_of = entries
    stays = np.ones(len(group_of), dtype=np.bool_)
    for index in np.unique(group_of[group_of >= 0]).tolist():
        kept = plan.kept.get(structure.groups[index].name)
        if kept is not None:
            here = group_of == index
            stays[here] = kept[channel_of[here]]
    return np.flatnonzero(stays)


def _on_kept(
    call: NormalizationSite, structure: DependencyGraph, plan: PrunePlan, _: int, operator: Any, args: Mapping[str, Any]
) -> Any:
    """Take the kept entries of every operand, work on them, and put the results where they were."""
    small = dict(args)
    for name, dims in call.args.items():
        for at, entries in dims.items():
            small[name] = small[name].index_select(at, torch.from_numpy(_kept(entries, structure, plan)))
    if "normalized_shape" in small:
        small["normalized_shape"] = list(small["input"].shape[-len(small["normalized_shape"]) :])
    schema = operator._schema.arguments
    positional = [small[each.name] for each in schema if not each.kwarg_only]
    result = operator(*positional, **{each.name: small[each.name] for each in schema if each.kwarg_only})
    spread = iter(call.outs)
    parts = [_spread(leaf, next(spread), structure, plan) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    return parts[0] if isinstance(result, Tensor) else tuple(parts)


def _spread(part: Tensor, dims: Mapping[int, ChannelIndex], structure: DependencyGraph, plan: PrunePlan) -> Tensor:
    for at, entries in dims.items():
        shape = (*part.shape[:at], len(entries[0]), *part.shape[at + 1 :])
        places = torch.from_numpy(_kept(entries, structure, plan))
        part = part.new_zeros(shape).index_copy(at, places, part)
    return part
