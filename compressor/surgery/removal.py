"""From a plan to a smaller module: every tensor keeps the entries of the channels that stay, sizes follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup, OptimizerState, PrunedEntries, PrunePlan, Role, TensorSlot
from compressor.execution.copies import copy_module
from compressor.graph.dependency_graph import DependencyGraph, SizeAttribute

if TYPE_CHECKING:
    from compressor.core import BoolArray, IntArray, KeptIndices


Size = int | tuple[int, ...] | list[int]


def remove_channels(module: nn.Module, structure: DependencyGraph, plan: PrunePlan) -> nn.Module:
    """A copy of `module` without the channels the plan drops. `module` is left as it is."""
    lost = removed_entries(structure.groups, plan)
    smaller: dict[int, object] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        data = _without(lost, name, tensor.detach())
        if data.shape != tensor.shape:
            smaller[id(tensor)] = nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
    slim = copy_module(module, smaller)  # by identity, so that a tensor with several names stays one tensor
    for (path, name), after in attributes_after(structure.attributes, plan, module).items():
        setattr(slim.get_submodule(path), name, after)
    return slim


def slice_optimizer_state(momentum: OptimizerState, groups: Sequence[ChannelGroup], plan: PrunePlan) -> OptimizerState:
    """What an optimizer remembers of the channels that stay; single numbers, such as Adam's step, as they are."""
    lost = removed_entries(groups, plan)
    return {
        name: {key: _without(lost, name, value) if value.ndim else value for key, value in remembered.items()}
        for name, remembered in momentum.items()
    }


def _without(lost: Mapping[tuple[str, int], IntArray], name: str, tensor: Tensor) -> Tensor:
    """The entries of a tensor of this name that are not lost."""
    for dim, size in enumerate(tensor.shape):
        if (name, dim) in lost:
            kept = np.delete(np.arange(size), lost[name, dim])
            tensor = tensor.index_select(dim, torch.from_numpy(kept).to(tensor.device))
    return tensor


def pruned_entries(groups: Sequence[ChannelGroup], plan: PrunePlan, module: nn.Module) -> tuple[PrunedEntries, ...]:
    """What a plan would take out of the weights that write its channels, and out of those that scale or shift them."""
    shapes = {name: tensor.shape for name, tensor in module.state_dict(keep_vars=True).items()}
    return tuple(
        PrunedEntries(name, dim, role, np.isin(np.arange(shapes[name][dim]), gone))
        for role in ("writer", "per_channel")
        for (name, dim), gone in removed_entries(groups, plan, role).items()
    )


def removed_entries(
    groups: Sequence[ChannelGroup], plan: PrunePlan, role: Role | None = None
) -> dict[tuple[str, int], IntArray]:
    """(tensor, dimension) -> entries the plan drops, in the module's own numbering; `role` picks the slots."""
    lost: dict[tuple[str, int], list[IntArray]] = defaultdict(list)
    for group in groups:
        kept = plan.kept.get(group.name)
        if kept is None or kept.all():
            continue
        for slot in group.slots:
            if role is None or slot.role == role:
                lost[slot.tensor, slot.dim].append(slot.positions[~kept].reshape(-1))
    return {key: np.unique(np.concatenate(parts)) for key, parts in lost.items()}


def attributes_after(
    attributes: Sequence[SizeAttribute], plan: PrunePlan, module: nn.Module
) -> dict[tuple[str, str], Size]:
    """(module, attribute) -> its value after the plan, for those that change."""
    after: dict[tuple[str, str], Size] = {}
    for each in attributes:
        value = each.fixed + sum(
            int(plan.kept[name][channels].sum()) if name in plan.kept else len(channels)
            for name, channels in each.channels.items()
        )
        key = (each.module, each.name)
        before = after.get(key, getattr(module.get_submodule(each.module), each.name))
        if each.index is None:
            after[key] = value
        else:
            after[key] = type(before)((*before[: each.index], value, *before[each.index + 1 :]))
    return {
        (path, name): value
        for (path, name), value in after.items()
        if value != getattr(module.get_submodule(path), name)
    }


def kept_sizes(attributes: Sequence[SizeAttribute], module: nn.Module) -> dict[str, dict[str, int | list[int]]]:
    """module -> attribute -> its value now, for every attribute that follows a width."""
    now: dict[str, dict[str, int | list[int]]] = defaultdict(dict)
    for each in attributes:
        value = getattr(module.get_submodule(each.module), each.name)
        now[each.module][each.name] = list(value) if isinstance(value, tuple | list) else int(value)
    return dict(now)


def compose_kept(before: KeptIndices, groups: Sequence[ChannelGroup], plan: PrunePlan, slim: nn.Module) -> KeptIndices:
    """Kept indices in the original model's numbering, after a plan on a module that kept `before`."""
    kept_sizes = {name: tensor.shape for name, tensor in slim.state_dict(keep_vars=True).items()}
    lost = removed_entries(groups, plan)
    result = {name: dict(dims) for name, dims in before.items()}
    for (name, dim), gone in lost.items():
        now = before.get(name, {}).get(dim) or range(kept_sizes[name][dim] + len(gone))
        stays = np.delete(np.arange(len(now)), gone)
        result.setdefault(name, {})[dim] = tuple(now[index] for index in stays.tolist())
    return result


def plan_from_kept(groups: Sequence[ChannelGroup], kept: KeptIndices) -> PrunePlan:
    """The plan that leaves these indices, in the numbering of the module the groups are of."""
    plan: dict[str, BoolArray] = {}
    for group in groups:
        for slot in group.slots:
            stays = kept.get(slot.tensor, {}).get(slot.dim)
            if stays is not None:
                plan[group.name] = np.isin(slot.positions[:, 0], stays)
    return PrunePlan({name: stays for name, stays in plan.items() if not stays.all()})


def relative_kept(before: KeptIndices, now: KeptIndices) -> KeptIndices:
    """The indices that `now` keeps, in the numbering of a module that kept `before`; both in the original's."""
    since: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, dims in now.items():
        for dim, indices in dims.items():
            places = {index: place for place, index in enumerate(before.get(name, {}).get(dim, ()))}
            since.setdefault(name, {})[dim] = tuple(places.get(index, index) for index in indices)
    return since


def removed_per_group(
    groups: Sequence[ChannelGroup], first: Sequence[ChannelGroup], plan: PrunePlan, since: KeptIndices
) -> dict[str, int]:
    """Group name -> channels it lost to `plan`, by the group of `first` that it is what is left of.

    Those of `first` that have one channel left are no groups any more; they come under their own names. `since`: what
    the module the groups are of keeps of the module that `first` is of.
    """
    lost = {group.name: int((~plan.kept[group.name]).sum()) for group in first if group.name in plan.kept}
    found: dict[str, int] = {}
    for group in groups:
        slot = group.slots[0]
        now = int(slot.positions[0, 0])
        kept = since.get(slot.tensor, {}).get(slot.dim)
        entry = now if kept is None else kept[now]
        whole = next((each.name for each in first if _holds(each, slot, entry)), "")
        found[group.name] = lost.pop(whole, 0)
    return {**lost, **found}


def _holds(group: ChannelGroup, slot: TensorSlot, entry: int) -> bool:
    """Whether the entry of that tensor dimension belongs to a channel of the group."""
    same = [each for each in group.slots if (each.tensor, each.dim) == (slot.tensor, slot.dim)]
    return any(entry in each.positions for each in same)
