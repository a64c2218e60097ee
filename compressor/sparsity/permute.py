"""Which order of a group's channels lets N:M masks keep most of the weights that read them.

All layers that read a group share one order, across residual additions too: their weights stand side by side in the
search. Pool and Yu, Channel Permutations for N:M Sparsity, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from compressor.core import ChannelGroup, Pattern, Slot
from compressor.sparsity.search import best_order, retained

if TYPE_CHECKING:
    from compressor.core import IntArray


def best_orders(
    weights: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    pattern: Pattern,
    *,
    rounds: int,
    seed: int,
    told: Callable[[int, int], None],
) -> dict[str, IntArray]:
    """Group name -> order, for each group in which another one keeps more.

    `weights`: those that will be masked, by name. `told` hears how many rounds of how many at most are done.
    """
    found: dict[str, IntArray] = {}
    total = rounds * len(groups)
    for number, group in enumerate(groups):
        rows_CR = _rows(weights, group, pattern)
        if rows_CR is not None:
            begun = number * rounds
            order = best_order(rows_CR, pattern, rounds=rounds, seed=seed, told=partial(_ahead, told, begun, total))
            if retained(rows_CR[order], pattern) > retained(rows_CR, pattern):
                found[group.name] = order.numpy().astype(np.int64)
    told(total, total)
    return found


def _ahead(told: Callable[[int, int], None], begun: int, total: int, done: int) -> None:
    told(begun + done, total)


def _rows(weights: Mapping[str, Tensor], group: ChannelGroup, pattern: Pattern) -> Tensor | None:
    """(C, R): |w| of every place that reads the group's channels; None where no order matters."""
    parts = [
        weights[slot.tensor].detach().abs().movedim(1, 0).flatten(1)[torch.from_numpy(slot.positions[:, 0])]
        for slot in group.slots
        if slot.role == "reader" and slot.dim == 1 and slot.tensor in weights and _lines_up(slot, pattern.m)
    ]
    return torch.cat(parts, dim=1) if parts and group.size % pattern.m == 0 and group.size > pattern.m else None


def _lines_up(slot: Slot, m: int) -> bool:
    """Whether every M channels in a row are one group of M of the tensor, which holds them once."""
    if slot.positions.shape[1] != 1 or len(slot.positions) % m:
        return False
    places = slot.positions[:, 0].reshape(-1, m)
    return bool((places == places[:, :1] + np.arange(m)).all() and (places[:, 0] % m == 0).all())
