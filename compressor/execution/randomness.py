"""Equal random numbers for passes that are compared."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SEED = 0


@contextmanager
def equal_randomness() -> Iterator[None]:
    """Seed PyTorch, NumPy and Python, so that every block draws the same numbers; restore the caller's state."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        np.random.seed(SEED)  # the global generator is what a forward may draw from
        random.seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seeded_generator(seed: int, *indices: int) -> torch.Generator:
    """Make a source of random numbers that are the same on every run, and others for other indices.

    Args:
        seed: The seed of the run.
        indices: Such as those of a round, or of a batch and an operation.

    Returns:
        A generator on the CPU.
    """
    for index in indices:
        seed = seed * 1_000_003 + index
    return torch.Generator().manual_seed(seed % 2**63)
