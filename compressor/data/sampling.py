"""The order of images and their random numbers, as pure functions of (seed, epoch, image).

No state is kept between draws, so that a run can continue in the middle of an epoch, and several processes can take
their shares of the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RandomWords = NDArray[np.uint64]
ProcessShare = tuple[int, int]  # (rank, world)

HOLDOUT_SEED = 0  # fixed, so that runs with different seeds hold out the same images
SAMPLE_SEED = 0  # fixed like it, for the images to calibrate on and for test samples

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class ReadBlocks:
    """Rows that are read from disk together."""

    starts: NDArray[np.int64]  # first row of each block, sorted
    window: int  # blocks that are kept in memory


def shuffled(rows: Tensor, seed: int, epoch: int, blocks: ReadBlocks | None = None) -> Tensor:
    """Shuffle rows for one epoch. With blocks, shuffle the blocks, and then the rows of each window of blocks.

    Args:
        rows: (N,).
        seed: Seed of the order.
        epoch: Index of the epoch.
        blocks: Rows that are read from disk together; None = the split is in memory.

    Returns:
        The rows in their order (N,).
    """
    generator = torch.Generator().manual_seed(int(_state(seed, epoch)[0]))
    order = torch.randperm(len(rows), generator=generator)
    if blocks is None:
        return rows[order]
    block_N = np.searchsorted(blocks.starts, rows.numpy(), side="right") - 1
    window_N = torch.randperm(len(blocks.starts), generator=generator).numpy()[block_N] // blocks.window
    return rows[torch.from_numpy(np.lexsort((order.numpy(), window_N)))]


def hold_out(classes: Tensor, share: float) -> Tensor:
    """Choose rows to hold out: a share of each class, but never a complete class.

    Args:
        classes: Class of each row (N,); equal numbers if there are no classes.
        share: The share, rounded to a number of rows of each class.

    Returns:
        Sorted rows.
    """
    generator = torch.Generator().manual_seed(HOLDOUT_SEED)
    chosen = []
    for label in torch.unique(classes):
        rows = (classes == label).nonzero().flatten()
        count = min(round(share * len(rows)), len(rows) - 1)
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def spread_rows(count: int, most: int | None) -> Tensor:
    """Choose rows at equal distances, so that they are of all classes where files are sorted by class.

    Args:
        count: The number of rows.
        most: Rows to choose at most; None = all.

    Returns:
        Sorted rows.
    """
    chosen = count if most is None else min(count, most)
    return torch.arange(chosen) * count // max(chosen, 1)


def held_out_count(samples: int, images: int) -> int:
    """Count the samples to hold out for choices between networks.

    Args:
        samples: The training samples.
        images: Held-out samples at most.

    Returns:
        A tenth of the samples, at least one where there are two, at most `images`.
    """
    return min(images, max(samples // 10, 1), samples - 1)


def process_share(first: int, size: int, part: ProcessShare) -> slice:
    """Find the contiguous share of a batch that one process works on. The shares of all processes make up the batch.

    Args:
        first: Index of the batch's first sample in the order of the epoch.
        size: Samples in the batch.
        part: (rank, world size).

    Returns:
        The samples of this process in the order of the epoch.
    """
    rank, world_size = part
    return slice(first + rank * size // world_size, first + (rank + 1) * size // world_size)


def image_keys(rows: Tensor, seed: int, epoch: int) -> RandomWords:
    """Draw a random word for each image, which does not depend on its batch.

    Args:
        rows: (B,).
        seed: Seed of the keys.
        epoch: Index of the epoch.

    Returns:
        The keys (B,), uint64.
    """
    images: RandomWords = rows.numpy().astype(np.uint64)
    return _mixed(_state(seed, epoch) + _GOLDEN * (images + np.uint64(1)))


def uniform(keys: RandomWords, count: int) -> Tensor:
    """Draw independent random numbers for each key.

    Args:
        keys: (B,).
        count: Numbers per key.

    Returns:
        Numbers in [0, 1), (count, B), float64.
    """
    steps = np.arange(1, count + 1, dtype=np.uint64)[:, None]
    return torch.from_numpy((_mixed(keys + _GOLDEN * steps) >> np.uint64(11)) * 2.0**-53)


def random_words(seed: int, iteration: int, part: ProcessShare) -> int:
    """Draw the seed of torch's random numbers for one iteration of one process.

    Args:
        seed: Seed of the training.
        iteration: Index of the iteration.
        part: (rank, world size).

    Returns:
        The seed, below 2^63.
    """
    return int(np.random.SeedSequence((seed, iteration, part[0])).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _state(seed: int, epoch: int) -> RandomWords:
    return np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64).astype(np.uint64)


def _mixed(words: RandomWords) -> RandomWords:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, https://doi.org/10.1145/2660193.2660195)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
