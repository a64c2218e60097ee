"""Which images, in which order, with which random numbers: pure functions of (seed, epoch, image).

Nothing here remembers what was drawn before, so a run can go on from the middle of an epoch, and several processes
can each take their part of the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RandomWords = NDArray[np.uint64]
ProcessShare = tuple[int, int]  # (rank, world)

HOLDOUT_SEED = 0  # not the recipe's: runs that differ in their seed choose by the same images

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class ReadBlocks:
    """Rows that are read from disk together: `starts` (sorted) of the blocks, `window` blocks held at once."""

    starts: NDArray[np.int64]
    window: int


def shuffled(rows: Tensor, seed: int, epoch: int, blocks: ReadBlocks | None = None) -> Tensor:
    """`rows` in the order of one epoch.

    With `blocks`, the blocks are shuffled and then the rows of every `window` of them: as random as the disk allows.
    """
    generator = torch.Generator().manual_seed(int(_state(seed, epoch)[0]))
    places = torch.randperm(len(rows), generator=generator)
    if blocks is None:
        return rows[places]
    block_N = np.searchsorted(blocks.starts, rows.numpy(), side="right") - 1
    window_N = torch.randperm(len(blocks.starts), generator=generator).numpy()[block_N] // blocks.window
    return rows[torch.from_numpy(np.lexsort((places.numpy(), window_N)))]


def hold_out(classes: Tensor, share: float) -> Tensor:
    """Rows to hold out, in order: `share` of each class, rounded; a class never gives all of its rows.

    `classes`: (N,); what has no classes is all of one.
    """
    generator = torch.Generator().manual_seed(HOLDOUT_SEED)
    chosen = []
    for each in torch.unique(classes):
        rows = (classes == each).nonzero().flatten()
        count = min(round(share * len(rows)), len(rows) - 1)
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def process_share(batch: Tensor, part: ProcessShare) -> Tensor:
    """The contiguous part of a batch that one of `world` processes takes; together they are the batch, in order."""
    rank, world = part
    return batch[rank * len(batch) // world : (rank + 1) * len(batch) // world]


def sort_keys(rows: Tensor, seed: int, epoch: int) -> RandomWords:
    """One random word for each image (B,), whatever batch it is in."""
    images: RandomWords = rows.numpy().astype(np.uint64)
    return _mixed(_state(seed, epoch) + _GOLDEN * (images + np.uint64(1)))


def uniform(keys: RandomWords, count: int) -> Tensor:
    """`count` independent numbers of [0, 1) for each key, (count, B), float64."""
    steps = np.arange(1, count + 1, dtype=np.uint64)[:, None]
    return torch.from_numpy((_mixed(keys + _GOLDEN * steps) >> np.uint64(11)) * 2.0**-53)


def random_words(seed: int, iteration: int, part: ProcessShare) -> int:
    """What one process seeds torch's own random numbers with in one iteration."""
    return int(np.random.SeedSequence((seed, iteration, part[0])).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _state(seed: int, epoch: int) -> RandomWords:
    return np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64).astype(np.uint64)


def _mixed(words: RandomWords) -> RandomWords:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, https://doi.org/10.1145/2660193.2660195)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
