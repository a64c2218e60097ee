"""From a plan to a smaller module: every tensor keeps the entries of the kept channels, and sizes follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup, OptimizerState, PrunedEntries, PrunePlan, Role, TensorSlot
from compressor.execution.computed_tensors import forget_computed_tensors_
from compressor.execution.copies import copy_module
from compressor.graph.dependency_graph import DependencyGraph, SizeAttribute
from compressor.tensors import named_tensors

if TYPE_CHECKING:
    from compressor.core import BoolArray, IntArray, KeptIndices


Size = int | tuple[int, ...] | list[int]


def remove_channels(module: nn.Module, graph: DependencyGraph, plan: PrunePlan) -> nn.Module:
    """Copy a module without the channels that a plan removes.

    Args:
        module: The module. It is not changed.
        graph: Its dependency graph.
        plan: The channels to keep.

    Returns:
        The smaller copy, whose size attributes follow.
    """
    removed = removed_entries(graph.groups, plan)
    smaller: dict[int, object] = {}
    for name, tensor in named_tensors(module).items():
        data = _drop(removed, name, tensor.detach())
        if data.shape != tensor.shape:
            smaller[id(tensor)] = nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
    slim = copy_module(module, smaller)  # by identity, so that a tensor with several names stays one tensor
    for (path, name), after in attributes_after(graph.attributes, plan, module).items():
        setattr(slim.get_submodule(path), name, after)
    forget_computed_tensors_(slim)
    return slim


def slice_optimizer_state(optimizer: OptimizerState, groups: Sequence[ChannelGroup], plan: PrunePlan) -> OptimizerState:
    """Keep the optimizer state of the kept channels; single numbers, such as Adam's step, do not change.

    Args:
        optimizer: Its state: parameter name -> key -> tensor.
        groups: The groups of the module's channels.
        plan: The channels to keep.

    Returns:
        The state for the smaller module.
    """
    removed = removed_entries(groups, plan)
    return {
        name: {key: _drop(removed, name, value) if value.ndim else value for key, value in values.items()}
        for name, values in optimizer.items()
    }


def _drop(removed: Mapping[tuple[str, int], IntArray], name: str, tensor: Tensor) -> Tensor:
    """Drop the removed entries of a tensor of this name."""
    for dim, size in enumerate(tensor.shape):
        if (name, dim) in removed:
            kept = np.delete(np.arange(size), removed[name, dim])
            tensor = tensor.index_select(dim, torch.from_numpy(kept).to(tensor.device))
    return tensor


def slice_tensors(tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup], plan: PrunePlan) -> dict[str, Tensor]:
    """Keep the entries of the kept channels in tensors of a module's shapes, such as masks.

    Args:
        tensors: Name in the module -> tensor; single numbers do not change.
        groups: The groups of the module's channels.
        plan: The channels to keep.

    Returns:
        The tensors for the smaller module.
    """
    removed = removed_entries(groups, plan)
    return {name: _drop(removed, name, tensor) for name, tensor in tensors.items()}


def pruned_entries(groups: Sequence[ChannelGroup], plan: PrunePlan, module: nn.Module) -> tuple[PrunedEntries, ...]:
    """List the entries that a plan removes from weights that write its channels, and from parameters that scale them.

    Args:
        groups: The groups of the module's channels.
        plan: The channels to keep.
        module: The module that the groups belong to.

    Returns:
        One record for each tensor dimension, with a mask of the removed entries.
    """
    shapes = {name: tensor.shape for name, tensor in named_tensors(module).items()}
    return tuple(
        PrunedEntries(name, dim, role, np.isin(np.arange(shapes[name][dim]), removed))
        for role in ("writer", "per_channel")
        for (name, dim), removed in removed_entries(groups, plan, role).items()
    )


def removed_entries(
    groups: Sequence[ChannelGroup], plan: PrunePlan, role: Role | None = None
) -> dict[tuple[str, int], IntArray]:
    """Translate removed channels into removed tensor entries.

    Args:
        groups: The groups of a module's channels.
        plan: The channels to keep.
        role: Only slots of this role; None for all.

    Returns:
        (tensor, dimension) -> sorted indices of the removed entries, in the module's own numbering.
    """
    removed: dict[tuple[str, int], list[IntArray]] = defaultdict(list)
    for group in groups:
        kept = plan.kept.get(group.name)
        if kept is None or kept.all():
            continue
        for slot in group.slots:
            if role is None or slot.role == role:
                removed[slot.tensor, slot.dim].append(slot.positions[~kept].reshape(-1))
    return {key: np.unique(np.concatenate(parts)) for key, parts in removed.items()}


def attributes_after(
    attributes: Sequence[SizeAttribute], plan: PrunePlan, module: nn.Module
) -> dict[tuple[str, str], Size]:
    """Compute the size attributes of a module after a plan.

    Args:
        attributes: The attributes that follow widths.
        plan: The channels to keep.
        module: The module before the removal.

    Returns:
        (module, attribute) -> new value, for the attributes that change.
    """
    after: dict[tuple[str, str], Size] = {}
    for attribute in attributes:
        value = attribute.width.after(plan)
        key = (attribute.module, attribute.name)
        before = after.get(key, getattr(module.get_submodule(attribute.module), attribute.name))
        if attribute.index is None:
            after[key] = value
        else:
            after[key] = type(before)((*before[: attribute.index], value, *before[attribute.index + 1 :]))
    return {
        (path, name): value
        for (path, name), value in after.items()
        if value != getattr(module.get_submodule(path), name)
    }


def contradictions(attributes: Sequence[SizeAttribute], plan: PrunePlan) -> set[tuple[str, str]]:
    """Find the size attributes that would need several values, because they are the sizes of several dimensions.

    Args:
        attributes: The attributes that follow widths.
        plan: The channels to keep.

    Returns:
        (module, attribute) of each.
    """
    values: dict[tuple[str, str, int | None], set[int]] = defaultdict(set)
    for size in attributes:
        values[size.module, size.name, size.index].add(size.width.after(plan))
    return {(module, name) for (module, name, _), sizes in values.items() if len(sizes) > 1}


def size_attributes(attributes: Sequence[SizeAttribute], module: nn.Module) -> dict[str, dict[str, int | list[int]]]:
    """Read the size attributes of a module.

    Args:
        attributes: The attributes that follow widths.
        module: The module that they belong to.

    Returns:
        Module name -> attribute -> current value.
    """
    now: dict[str, dict[str, int | list[int]]] = defaultdict(dict)
    for attribute in attributes:
        value = getattr(module.get_submodule(attribute.module), attribute.name)
        now[attribute.module][attribute.name] = list(value) if isinstance(value, tuple | list) else int(value)
    return dict(now)


def compose_kept(before: KeptIndices, groups: Sequence[ChannelGroup], plan: PrunePlan, slim: nn.Module) -> KeptIndices:
    """Extend kept indices by one more removal.

    Args:
        before: Kept indices of the module before the plan, in the original model's numbering.
        groups: The groups of that module's channels.
        plan: The channels to keep.
        slim: The module after the plan.

    Returns:
        Kept indices of `slim`, in the original model's numbering.
    """
    shapes = {name: tensor.shape for name, tensor in named_tensors(slim, every_name=True).items()}
    result = {name: dict(dims) for name, dims in before.items()}
    for (name, dim), removed in removed_entries(groups, plan).items():
        indices = before.get(name, {}).get(dim) or range(shapes[name][dim] + len(removed))
        kept = np.delete(np.arange(len(indices)), removed)
        result.setdefault(name, {})[dim] = tuple(indices[index] for index in kept.tolist())
    return result


def plan_from_kept(groups: Sequence[ChannelGroup], kept: KeptIndices) -> PrunePlan:
    """Recover a plan from kept indices.

    Args:
        groups: The groups of a module's channels.
        kept: Indices to keep, in the numbering of that module.

    Returns:
        The plan; groups that keep all channels are absent.
    """
    plan: dict[str, BoolArray] = {}
    for group in groups:
        for slot in group.slots:
            indices = kept.get(slot.tensor, {}).get(slot.dim)
            if indices is not None:
                plan[group.name] = np.isin(slot.positions[:, 0], indices)
    return PrunePlan({name: mask for name, mask in plan.items() if not mask.all()})


def relative_kept(before: KeptIndices, now: KeptIndices) -> KeptIndices:
    """Renumber kept indices relative to a module that was pruned before.

    Args:
        before: Kept indices of the earlier module, in the original model's numbering.
        now: Kept indices of the later module, in the original model's numbering.

    Returns:
        The indices of `now` in the numbering of the earlier module.
    """
    relative: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, dims in now.items():
        for dim, indices in dims.items():
            position = {index: number for number, index in enumerate(before.get(name, {}).get(dim, ()))}
            relative.setdefault(name, {})[dim] = tuple(position.get(index, index) for index in indices)
    return relative


def removed_per_group(
    groups: Sequence[ChannelGroup], first: Sequence[ChannelGroup], plan: PrunePlan, since: KeptIndices
) -> dict[str, int]:
    """Count the channels removed from each group, matched to the original groups.

    Args:
        groups: The groups of the module as it is.
        first: The groups of the module that the plan refers to.
        plan: The channels of `first` to keep.
        since: Kept indices of the module as it is, relative to the module of `first`.

    Returns:
        Group name -> removed channels. Groups of `first` that have one channel left are no groups any more and appear
        under their former names.
    """
    removed = {group.name: int((~plan.kept[group.name]).sum()) for group in first if group.name in plan.kept}
    counts: dict[str, int] = {}
    for group in groups:
        slot = group.slots[0]
        index = int(slot.positions[0, 0])
        kept = since.get(slot.tensor, {}).get(slot.dim)
        entry = index if kept is None else kept[index]
        original = next((group.name for group in first if _holds(group, slot, entry)), "")
        counts[group.name] = removed.pop(original, 0)
    return {**removed, **counts}


def _holds(group: ChannelGroup, slot: TensorSlot, entry: int) -> bool:
    """Whether the entry of that tensor dimension belongs to a channel of the group."""
    same = [other for other in group.slots if (other.tensor, other.dim) == (slot.tensor, slot.dim)]
    return any(entry in other.positions for other in same)
