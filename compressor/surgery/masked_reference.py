"""The dense model without the effect of the channels a plan removes: the reference that slim models are compared with.

Weights that read removed channels are zero. A norm, or a mean over channels, works on the kept channels only, and
random numbers are drawn for these only, so that both models draw the same ones.
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
from compressor.graph.channels import ChannelIndex, NormalizationSite
from compressor.graph.dependency_graph import DependencyGraph
from compressor.graph.rules import table as rules
from compressor.graph.trace import replay
from compressor.surgery.removal import removed_entries
from compressor.tensors import named_tensors

if TYPE_CHECKING:
    from compressor.core import ChannelGroup, IntArray, PrunePlan


def with_readers_zeroed(dense: nn.Module, groups: Sequence[ChannelGroup], plan: PrunePlan) -> nn.Module:
    """Copy a model with zeros where weights read the channels that a plan removes.

    Args:
        dense: The model. It is not changed.
        groups: The groups of its channels.
        plan: The channels to keep.

    Returns:
        The copy.
    """
    copied = copy_module(dense)
    tensors = named_tensors(copied)
    with torch.no_grad():
        for (name, dim), removed in removed_entries(groups, plan, role="reader").items():
            tensors[name].index_fill_(dim, torch.from_numpy(removed), 0.0)
    return copied


def run_restricted(module: nn.Module, *inputs: Tensor, graph: DependencyGraph, plan: PrunePlan) -> Any:
    """Run a module; every call that mixes channels or draws for them has the kept ones, and zeros for the others.

    Args:
        module: The module.
        inputs: Its inputs.
        graph: Its dependency graph.
        plan: The channels to keep.

    Returns:
        The module's output.
    """
    touched = [site for site in _sites(graph) if _touched(site, graph, plan)]
    handlers = {site.call: partial(_on_kept, site, graph, plan) for site in touched}
    return replay(module, *inputs, known=rules.has_rule, handlers=handlers) if handlers else module(*inputs)


def mixes_channels(graph: DependencyGraph, plan: PrunePlan) -> bool:
    """Test whether a plan changes the channels that some normalization works on, or that numbers are drawn for.

    Args:
        graph: The model's dependency graph.
        plan: The channels to keep.

    Returns:
        True where at least one call is affected.
    """
    return any(_touched(site, graph, plan) for site in _sites(graph))


def _sites(graph: DependencyGraph) -> tuple[NormalizationSite, ...]:
    return *graph.mixtures, *graph.draws


def _touched(call: NormalizationSite, graph: DependencyGraph, plan: PrunePlan) -> bool:
    dims = (*call.args.values(), *call.outs)
    return any(len(_kept(index, graph, plan)) < len(index[0]) for entries in dims for index in entries.values())


def _kept(entries: ChannelIndex, graph: DependencyGraph, plan: PrunePlan) -> IntArray:
    """The indices of the kept entries of a dimension."""
    group_of, channel_of = entries
    mask = np.ones(len(group_of), dtype=np.bool_)
    for index in np.unique(group_of[group_of >= 0]).tolist():
        kept = plan.kept.get(graph.groups[index].name)
        if kept is not None:
            in_group = group_of == index
            mask[in_group] = kept[channel_of[in_group]]
    return np.flatnonzero(mask)


def _on_kept(
    call: NormalizationSite, graph: DependencyGraph, plan: PrunePlan, operator: Any, args: Mapping[str, Any]
) -> Any:
    """Gather the kept entries of every operand, run the operator on them, and scatter the results."""
    small = dict(args)
    for name, dims in call.args.items():
        for at, entries in dims.items():
            part = small[name].index_select(at, torch.from_numpy(_kept(entries, graph, plan)))
            small[name] = _laid_out_as(part, args[name])
    if "normalized_shape" in small:
        small["normalized_shape"] = list(small["input"].shape[-len(small["normalized_shape"]) :])
    schema = operator._schema.arguments
    positional = [small[argument.name] for argument in schema if not argument.kwarg_only]
    named = {argument.name: small[argument.name] for argument in schema if argument.kwarg_only}
    result = operator(*positional, **named)
    outs = iter(call.outs)
    parts = [_scatter(leaf, next(outs), graph, plan) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if operator._schema.is_mutable:
        return args["self"].copy_(parts[0])
    return parts[0] if isinstance(result, Tensor) else tuple(parts)


def _scatter(part: Tensor, dims: Mapping[int, ChannelIndex], graph: DependencyGraph, plan: PrunePlan) -> Tensor:
    for at, entries in dims.items():
        shape = (*part.shape[:at], len(entries[0]), *part.shape[at + 1 :])
        kept = torch.from_numpy(_kept(entries, graph, plan))
        part = _laid_out_as(part.new_zeros(shape).index_copy(at, kept, part), part)
    return part


def _laid_out_as(part: Tensor, like: Tensor) -> Tensor:
    """The same entries with dimensions in another tensor's order in memory, in which random numbers are drawn."""
    order = sorted(range(part.ndim), key=like.stride, reverse=True)
    return part.permute(order).contiguous().permute(np.argsort(order).tolist())
