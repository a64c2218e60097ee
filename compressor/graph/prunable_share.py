"""How much of a model's arithmetic its channel groups hold: those that can be cut, and those that can't, by reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressor.core import ChannelGroup, PrunableShare
from compressor.graph.cost import CostModel


def prunable_shares(groups: Sequence[ChannelGroup], cost: CostModel) -> tuple[PrunableShare, ...]:
    """What the free groups hold, then what is frozen for each reason, the largest share of multiply-adds first.

    A share is what would go with all channels of these groups: `(macs - macs without them) / macs`. Layers between two
    groups count for both, so shares may add up to more than 1; freeing the first frozen entry unlocks most.
    """
    frozen = [_held(groups, cost, reason) for reason in dict.fromkeys(group.frozen for group in groups if group.frozen)]
    return (_held(groups, cost, None), *sorted(frozen, key=lambda each: -each.macs))


def _held(groups: Sequence[ChannelGroup], cost: CostModel, reason: str | None) -> PrunableShare:
    sizes_G = np.array([group.size if group.frozen == reason else 0 for group in groups], dtype=np.int64)
    whole = cost.cost(np.zeros_like(sizes_G)).macs
    share = 1 - cost.cost(sizes_G).macs / whole if whole else 0.0
    return PrunableShare(reason, int((sizes_G > 0).sum()), int(sizes_G.sum()), share)
