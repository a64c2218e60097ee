"""How far a training is, and what it tells of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from compressor.core import Data, Train

Record = dict[str, float]
"""One epoch: epoch (from 1), loss (mean), lr (its first), seconds, images_per_second, batch_ms (median), energy_j where
it is metered, the task's metric (`held_out` or `train_sample`, see judge.py), and for one epoch peak_bytes."""


def iterations_of(step: Train, data: Data) -> tuple[int, int]:
    """Of an epoch, and of the whole training."""
    per_epoch = max(1, data.train_size // step.batch_size)
    return per_epoch, step.epochs * per_epoch if step.iterations is None else step.iterations


@dataclass(slots=True)
class Progress:
    """What it takes, beside weights and random numbers, to go on."""

    iterations: int = 0  # done, in all
    records: list[Record] = field(default_factory=list)  # of the epochs done
    batches: int = 0  # done, of the epoch at hand; what follows is of this epoch as well
    images: int = 0
    loss: float = 0.0  # sum over the images
    first: float = math.nan  # loss of the first batch of all
    last: float = math.nan  # of the last one
    times: list[float] = field(default_factory=list)  # seconds of each batch
    energy_j: float | None = 0.0

    @property
    def seconds(self) -> float:
        return sum(self.times)

    @property
    def epoch(self) -> int:
        """Number of the epoch at hand, from 0."""
        return len(self.records)

    def add(self, loss: float, images: int, seconds: float) -> None:
        """One batch more."""
        self.iterations += 1
        self.batches += 1
        self.images += images
        self.loss += loss * images
        self.first = loss if math.isnan(self.first) else self.first
        self.last = loss
        self.times.append(seconds)

    def use(self, joules: float | None) -> None:
        """Energy that the epoch at hand has taken as well."""
        self.energy_j = None if joules is None or self.energy_j is None else self.energy_j + joules

    def close_epoch(self, lr: float) -> Record:
        """The record of the epoch at hand, which is over."""
        record = {
            "epoch": self.epoch + 1,
            "loss": self.loss / self.images,
            "lr": lr,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds,
            "batch_ms": 1e3 * median(self.times),
            **({} if self.energy_j is None else {"energy_j": self.energy_j}),
        }
        self.records.append(record)
        self.batches = self.images = 0
        self.loss = self.energy_j = 0.0
        self.times = []
        return record
