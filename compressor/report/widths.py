"""Channel groups and a plan -> how wide each layer was and is, and how much could be cut at all."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.core import ChannelGroup, PrunableShare, PrunePlan
from compressor.report.schema import Coverage, LayerRecord


def layer_widths(groups: Sequence[ChannelGroup], plan: PrunePlan, order: Sequence[str]) -> list[LayerRecord]:
    """Channels each layer writes before and after, in the order of `order` (the state dict's tensor names).

    A layer whose channels live in several groups is counted over all of them, and frozen only when all are.
    """
    widths: dict[str, list[int]] = {}
    cuttable: set[str] = set()
    for group in groups:
        kept = plan.kept.get(group.name)
        for slot in group.writers():
            entries = slot.positions.shape[1]
            total = widths.setdefault(slot.tensor, [0, 0])
            total[0] += group.size * entries
            total[1] += (group.size if kept is None else int(kept.sum())) * entries
            if group.frozen is None:
                cuttable.add(slot.tensor)
    place = {name: index for index, name in enumerate(order)}
    return [
        {
            "name": tensor.removesuffix(".weight"),
            "before": before,
            "after": after,
            "frozen": tensor not in cuttable,
        }
        for tensor, (before, after) in sorted(widths.items(), key=lambda each: place.get(each[0], len(place)))
    ]


def frozen_coverage(groups: Sequence[ChannelGroup], held: Sequence[PrunableShare]) -> Coverage:
    """How much of the layers, channels and multiply-adds that groups hold can be cut, and what keeps the rest."""
    free = [group for group in groups if group.frozen is None]
    tensors = {slot.tensor for group in groups for slot in group.writers()}
    return {
        "layers": len(tensors),
        "prunable_layers": len({slot.tensor for group in free for slot in group.writers()}),
        "channels": sum(group.size for group in groups),
        "prunable_channels": sum(group.size for group in free),
        "prunable_macs_percent": sum(100 * each.macs for each in held if each.frozen is None),
        "frozen_macs": [
            {
                "reason": each.frozen,
                "groups": each.groups,
                "channels": each.channels,
                "macs_percent": 100 * each.macs,
            }
            for each in held
            if each.frozen
        ],
    }
