"""Channel permutations that let N:M masks keep more: which input channels share a group of M.

Pool and Yu, Channel Permutations for N:M Sparsity, NeurIPS 2021. They try all ways to divide two groups anew. Here the
pair of channels in different groups whose swap gains most is swapped, which needs one number per pair. Wide layers are
searched in random blocks of channels, which change every round.

Shapes: C channels   R weights that read each channel
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from compressor.core import ChannelGroup, NMPattern, TensorSlot

if TYPE_CHECKING:
    from compressor.core import IntArray


BLOCK = 256  # channels that are searched together
PART = 2**17  # weights that are compared at once: they stay in the processor's caches, with room for the result
MIN_GAIN = 1e-6  # share of all magnitudes; a smaller gain is a rounding error


def retained_magnitude(rows_CR: Tensor, pattern: NMPattern) -> float:
    """Sum the N largest of every M consecutive channels over all rows.

    Args:
        rows_CR: |w| (C, R).
        pattern: N and M.

    Returns:
        The sum of the magnitudes that an N:M mask keeps.
    """
    n, m = pattern
    return float(rows_CR.reshape(-1, m, rows_CR.shape[1]).topk(n, dim=1).values.sum(dtype=torch.float64))


def best_order(
    rows_CR: Tensor, pattern: NMPattern, *, rounds: int, seed: int, progress: Callable[[int], None]
) -> Tensor:
    """Search the order of channels that retains the largest magnitude.

    The first round starts from the present order, or from channels dealt to the groups by size if that retains more.
    Channels that fit in one block start every other round from a random order, and the best result is returned. More
    channels are divided into random blocks in every round, until no swap gains anything. The budget is in rounds, not
    seconds, so that the same weights and seed give the same order on every machine.

    Args:
        rows_CR: |w| (C, R), C a multiple of M.
        pattern: N and M.
        rounds: The number of rounds at most.
        seed: Seed of random orders and blocks.
        progress: Takes the index of each round at its start.

    Returns:
        The order, channel indices (C,).
    """
    n, m = pattern
    count = len(rows_CR)
    random = torch.Generator().manual_seed(seed)
    order = max(torch.arange(count), _dealt(rows_CR, m), key=lambda order: retained_magnitude(rows_CR[order], pattern))
    if count <= BLOCK:
        ends = []
        for index in range(rounds):
            progress(index)
            start = torch.randperm(count, generator=random) if index else order
            ends.append(start[_swapped(rows_CR[start], n, m)[0]])
        return max((order, *ends), key=lambda order: retained_magnitude(rows_CR[order], pattern))
    for index in range(rounds):
        progress(index)
        gained = 0.0
        for block in torch.split(torch.randperm(count // m, generator=random), BLOCK // m):
            slots = (block[:, None] * m + torch.arange(m)).flatten()
            inner, gain = _swapped(rows_CR[order[slots]], n, m)
            order[slots] = order[slots][inner]
            gained += gain
        if gained <= MIN_GAIN * float(rows_CR.sum()):
            break
    return order


def _dealt(rows_CR: Tensor, m: int) -> Tensor:
    """Deal channels to groups by size: each group gets one of the C/M largest, one of the next C/M, and so on."""
    ranked = rows_CR.sum(dim=1).argsort(descending=True, stable=True)
    return ranked.reshape(m, -1).T.flatten()


def _swapped(rows_CR: Tensor, n: int, m: int) -> tuple[Tensor, float]:
    """Swap the pair that gains most until none does. Return the order and the sum of the gains."""
    count, total = len(rows_CR), 0.0
    order = torch.arange(count)
    kept = _if_replaced(rows_CR, order, range(count), n, m)
    minimum = MIN_GAIN * float(rows_CR.sum()) / count
    groups = torch.arange(count) // m
    same_group = groups[:, None] == groups
    for _ in range(4 * count):
        across = kept.index_select(1, order)  # [a, b]: the group of slot a, with the channel of slot b in that slot
        now = across.diagonal()  # what the group of each slot retains now
        gain = (across + across.T - now[:, None] - now).masked_fill_(same_group, 0.0)
        a, b = divmod(int(gain.argmax()), count)
        if float(gain[a, b]) <= minimum:
            break
        total += float(gain[a, b])
        order[[a, b]] = order[[b, a]]
        changed = [slot for group in (a // m, b // m) for slot in range(group * m, group * m + m)]
        kept[changed] = _if_replaced(rows_CR, order, changed, n, m)
    return order, total


def _if_replaced(rows_CR: Tensor, order: Tensor, slots: Sequence[int], n: int, m: int) -> Tensor:
    """Compute what the group of each slot retains with each channel in that slot, (slots, C).

    The N - 1 largest of the M - 1 others are always kept. The last kept one is the N-th largest or the new channel.
    """
    others = [[other for other in range(slot // m * m, slot // m * m + m) if other != slot] for slot in slots]
    largest = [_largest(rows_CR[order[group]], n) for group in others]
    channels = max(1, PART // rows_CR.shape[1])
    larger, sums = torch.empty_like(rows_CR[:channels]), rows_CR.new_empty(len(slots), len(rows_CR))
    for start in range(0, len(rows_CR), channels):  # in the caches while all slots are compared with them
        rows = rows_CR[start : start + channels]
        for index, values in enumerate(largest):
            compared = torch.maximum(rows, values[-1], out=larger[: len(rows)])
            torch.sum(compared, dim=1, out=sums[index, start : start + channels])
    return sums + torch.stack([torch.stack(values)[:-1].sum() for values in largest])[:, None]


def _largest(values_GR: Tensor, n: int) -> list[Tensor]:
    """The n largest of a few rows, column by column, in descending order: `topk` takes seven times as long here."""
    largest: list[Tensor] = []
    for row_R in values_GR:
        for index, kept_R in enumerate(largest):
            largest[index], row_R = torch.maximum(kept_R, row_R), torch.minimum(kept_R, row_R)
        largest = [*largest, row_R][:n]
    return largest


def best_orders(
    weights: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    pattern: NMPattern,
    *,
    rounds: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> dict[str, IntArray]:
    """Search an order of the channels of each group.

    Args:
        weights: The weights that will be masked, by name.
        groups: The channel groups.
        pattern: N and M.
        rounds: Rounds per group at most.
        seed: Seed of each group's search.
        progress: Takes the number of rounds done and the number of all rounds.

    Returns:
        Group name -> order (C,), for the groups in which the order retains more than the present one.
    """
    orders: dict[str, IntArray] = {}
    total = rounds * len(groups)
    for index, group in enumerate(groups):
        rows_CR = _rows(weights, group, pattern)
        if rows_CR is not None:
            done = index * rounds
            report = partial(lambda done, current: progress(done + current, total), done)
            with _one_thread():
                order = best_order(rows_CR, pattern, rounds=rounds, seed=seed, progress=report)
            if retained_magnitude(rows_CR[order], pattern) > retained_magnitude(rows_CR, pattern):
                orders[group.name] = order.numpy().astype(np.int64)
    progress(total, total)
    return orders


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: the operators are so short that a second one takes as much CPU time again for nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rows(weights: Mapping[str, Tensor], group: ChannelGroup, pattern: NMPattern) -> Tensor | None:
    """|w| of the weights that read the group's channels, (C, R); None if their order does not matter."""
    rows = [
        weights[slot.tensor].detach().abs().movedim(1, 0).flatten(1)[torch.from_numpy(slot.positions[:, 0])]
        for slot in group.slots
        if slot.role == "reader" and slot.dim == 1 and slot.tensor in weights and _is_aligned(slot, pattern.m)
    ]
    return torch.cat(rows, dim=1) if rows and group.size % pattern.m == 0 and group.size > pattern.m else None


def _is_aligned(slot: TensorSlot, m: int) -> bool:
    """Whether every M consecutive channels are one group of M of the tensor."""
    if slot.positions.shape[1] != 1 or len(slot.positions) % m:
        return False
    groups = slot.positions[:, 0].reshape(-1, m)
    return bool((groups == groups[:, :1] + np.arange(m)).all() and (groups[:, 0] % m == 0).all())
