"""Channel permutations that let N:M masks keep more: which input channels share a group of M.

Pool and Yu, Channel Permutations for N:M Sparsity, NeurIPS 2021. They look through all ways to part two groups anew;
here two channels of different groups change places, of all pairs the one that gains most, which needs only one number a
pair. Wide layers are looked at in blocks of channels, drawn anew every round.

Shapes: C channels   R rows, every place where the weight of one channel stands beside those of the others
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from compressor.core import ChannelGroup, NMPattern, TensorSlot

if TYPE_CHECKING:
    from compressor.core import IntArray


BLOCK = 256  # channels looked at together
LEAST = 1e-6  # share of all magnitudes below which a gain is rounding


def retained_magnitude(rows_CR: Tensor, pattern: NMPattern) -> float:
    """Sum of the N largest of every M consecutive channels, over all rows."""
    n, m = pattern
    return float(rows_CR.reshape(-1, m, rows_CR.shape[1]).topk(n, dim=1).values.sum(dtype=torch.float64))


def best_order(rows_CR: Tensor, pattern: NMPattern, *, rounds: int, seed: int, told: Callable[[int], None]) -> Tensor:
    """The order of channels (C,) that retains most, as far as `rounds` rounds of swaps find it; C a multiple of M.

    The first round starts from the order there is, or from the channels dealt out by size where that keeps more. More
    channels than fit a block are drawn into blocks anew in every round, until no swap gains anything; fewer start every
    round from another random order, and the best end counts. The budget is rounds and not seconds, so that the same
    weights and seed give the same order on every machine. `told` hears the number of each round.
    """
    n, m = pattern
    count = len(rows_CR)
    random = torch.Generator().manual_seed(seed)
    order = max(torch.arange(count), _dealt(rows_CR, m), key=lambda each: retained_magnitude(rows_CR[each], pattern))
    if count <= BLOCK:
        ends = []
        for number in range(rounds):
            told(number)
            start = torch.randperm(count, generator=random) if number else order
            ends.append(start[_swapped(rows_CR[start], n, m)[0]])
        return max((order, *ends), key=lambda each: retained_magnitude(rows_CR[each], pattern))
    for number in range(rounds):
        told(number)
        gained = 0.0
        for block in torch.split(torch.randperm(count // m, generator=random), BLOCK // m):
            places = (block[:, None] * m + torch.arange(m)).flatten()
            inner, gain = _swapped(rows_CR[order[places]], n, m)
            order[places] = order[places][inner]
            gained += gain
        if gained <= LEAST * float(rows_CR.sum()):
            break
    return order


def _dealt(rows_CR: Tensor, m: int) -> Tensor:
    """Each group gets one channel of the largest M-th, one of the next, and so on."""
    ranked = rows_CR.sum(dim=1).argsort(descending=True, stable=True)
    return ranked.reshape(m, -1).T.flatten()


def _swapped(rows_CR: Tensor, n: int, m: int) -> tuple[Tensor, float]:
    """Swap the pair that gains most until none does; the order found, and the sum of the gains."""
    count, total = len(rows_CR), 0.0
    order = torch.arange(count)
    kept = torch.stack([_if_replaced(rows_CR, order, place, n, m) for place in range(count)])
    least = LEAST * float(rows_CR.sum()) / count
    for _ in range(4 * count):
        now = kept[torch.arange(count), order]  # what the group of each place retains as it is
        across = kept[:, order]  # [a, b]: the group of place a, with the channel of place b in it instead
        gain = across + across.T - now[:, None] - now
        same = torch.arange(count) // m
        gain.masked_fill_(same[:, None] == same, 0.0)
        a, b = divmod(int(gain.argmax()), count)
        if float(gain[a, b]) <= least:
            break
        total += float(gain[a, b])
        order[[a, b]] = order[[b, a]]
        for stripe in (a // m, b // m):
            for place in range(stripe * m, stripe * m + m):
                kept[place] = _if_replaced(rows_CR, order, place, n, m)
    return order, total


def _if_replaced(rows_CR: Tensor, order: Tensor, place: int, n: int, m: int) -> Tensor:
    """(C,): what the group of `place` retains with each channel in that place.

    Of the M - 1 others the N - 1 largest stay in any case; the last one kept is the N-th largest or the newcomer.
    """
    begin = place // m * m
    others = rows_CR[order[[each for each in range(begin, begin + m) if each != place]]]
    largest = others.topk(n, dim=0).values
    return torch.maximum(rows_CR, largest[-1]).sum(dim=1) + largest[:-1].sum()


def best_orders(
    weights: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    pattern: NMPattern,
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
            if retained_magnitude(rows_CR[order], pattern) > retained_magnitude(rows_CR, pattern):
                found[group.name] = order.numpy().astype(np.int64)
    told(total, total)
    return found


def _ahead(told: Callable[[int, int], None], begun: int, total: int, done: int) -> None:
    told(begun + done, total)


def _rows(weights: Mapping[str, Tensor], group: ChannelGroup, pattern: NMPattern) -> Tensor | None:
    """(C, R): |w| of every place that reads the group's channels; None where no order matters."""
    parts = [
        weights[slot.tensor].detach().abs().movedim(1, 0).flatten(1)[torch.from_numpy(slot.positions[:, 0])]
        for slot in group.slots
        if slot.role == "reader" and slot.dim == 1 and slot.tensor in weights and _lines_up(slot, pattern.m)
    ]
    return torch.cat(parts, dim=1) if parts and group.size % pattern.m == 0 and group.size > pattern.m else None


def _lines_up(slot: TensorSlot, m: int) -> bool:
    """Whether every M channels in a row are one group of M of the tensor, which holds them once."""
    if slot.positions.shape[1] != 1 or len(slot.positions) % m:
        return False
    places = slot.positions[:, 0].reshape(-1, m)
    return bool((places == places[:, :1] + np.arange(m)).all() and (places[:, 0] % m == 0).all())
