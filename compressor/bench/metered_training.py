"""Training with the energy meters of this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from compressor.bench.runner.energy import energy_joules
from compressor.training.loop import TrainResult, train


def metered(trainer: Callable[..., TrainResult] | None) -> Callable[..., TrainResult]:
    """Return the function that trains, this process's own where None is given, with this machine's energy meters."""
    return partial(trainer or train, joules=energy_joules)
