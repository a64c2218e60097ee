"""Equal random numbers for passes that are compared, and for weights that are drawn anew."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SEED = 0


@contextmanager
def equal_randomness(seed: int = SEED) -> Iterator[None]:
    """Seed PyTorch, NumPy and Python, so that every block draws the same numbers; restore the caller's state.

    Args:
        seed: Blocks of one seed draw the same.
    """
    python, numpy = random.getstate(), np.random.get_state()
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count()) if in_use else ()
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices that nothing restores
        for index in gpus:
            torch.cuda.default_generators[index].manual_seed(seed)
        np.random.seed(seed)  # the global generator is what a forward may draw from
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seeded_generator(seed: int, *indices: int) -> torch.Generator:
    """Make a source of random numbers that are the same on every run for one seed and its indices.

    Args:
        seed: The seed of the run.
        indices: Such as those of a round, or of a batch and an operation.

    Returns:
        A generator on the CPU.
    """
    for index in indices:
        seed = seed * 1_000_003 + index
    return torch.Generator().manual_seed(seed % 2**63)
