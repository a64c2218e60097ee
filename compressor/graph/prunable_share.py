"""Shares of a model's multiply-adds in its channel groups: the prunable ones, and the frozen ones by reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressor.core import ChannelGroup, Freeze, PrunableShare
from compressor.graph.cost import CostModel


def prunable_shares(groups: Sequence[ChannelGroup], cost: CostModel) -> tuple[PrunableShare, ...]:
    """Compute the share of the free groups, then that of the groups frozen for each reason, the largest first.

    A share is the reduction if all channels of these groups were removed: `(macs - macs without them) / macs`. Layers
    between two groups count for both, so that shares may add up to more than 1. Unfreezing the first frozen entry gains
    most.

    Args:
        groups: The channel groups.
        cost: Predicts multiply-adds.

    Returns:
        One record for the free groups and one for each reason.
    """
    reasons = dict.fromkeys(group.frozen for group in groups if group.frozen)
    frozen = [share_of(groups, cost, [group.frozen == reason for group in groups], reason) for reason in reasons]
    free = share_of(groups, cost, [group.frozen is None for group in groups])
    return (free, *sorted(frozen, key=lambda share: -share.macs))


def share_of(
    groups: Sequence[ChannelGroup], cost: CostModel, chosen: Sequence[bool], frozen: Freeze | None = None
) -> PrunableShare:
    """Compute the share of some groups.

    Args:
        groups: The channel groups.
        cost: Predicts multiply-adds.
        chosen: Whether each group is one of them.
        frozen: Why they are frozen; None = they are not, or for different reasons.

    Returns:
        The record.
    """
    sizes_G = np.array([group.size if taken else 0 for group, taken in zip(groups, chosen, strict=True)], np.int64)
    total = cost.cost(np.zeros_like(sizes_G)).macs
    share = 1 - cost.cost(sizes_G).macs / total if total else 0.0
    return PrunableShare(frozen, int((sizes_G > 0).sum()), int(sizes_G.sum()), share)
