"""How far a training is, and what it tells of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Record = dict[str, float]
"""One epoch: epoch (from 1), loss (mean), lr (its first), seconds, images_per_second, and the task's metric
(`held_out` or `train_sample`, see judge.py)."""


@dataclass(slots=True)
class Progress:
    """What it takes, beside weights and random numbers, to go on."""

    iterations: int = 0  # done, in all
    records: list[Record] = field(default_factory=list)  # of the epochs done
    batches: int = 0  # done, of the epoch at hand; what follows is of this epoch as well
    images: int = 0
    loss: float = 0.0  # sum over the images
    last: float = math.nan  # of the last batch
    seconds: float = 0.0

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
        self.last = loss
        self.seconds += seconds

    def close_epoch(self, lr: float) -> Record:
        """The record of the epoch at hand, which is over."""
        record = {
            "epoch": self.epoch + 1,
            "loss": self.loss / self.images,
            "lr": lr,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds,
        }
        self.records.append(record)
        self.batches = self.images = 0
        self.loss = self.seconds = 0.0
        return record
