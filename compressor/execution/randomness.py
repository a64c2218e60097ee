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
    """Every block draws the same numbers, from PyTorch, NumPy and Python; the caller's generators are left alone."""
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
