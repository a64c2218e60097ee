"""The settings of the data, from the `data` block of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressor.core import Augment

AUTO = "auto"
"""The source that is whatever `--data` is, with the other settings of the recipe's block."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Data and their task. Paths are relative to `--data`, or else to the current folder."""

    source: str
    """auto, parquet, folder, digits, torchvision:NAME, path/to/file.py:factory, samples, noise[:SEED] or memory"""
    train: str | None = None
    val: str | None = None
    mean: tuple[float, ...] | None = None  # per channel; None = what the model expects
    std: tuple[float, ...] | None = None
    augment: Augment = "none"
    task: str = "classification"
    loss: Literal["mse", "l1", "smooth_l1"] | None = None
    metric: Literal["rmse", "mae"] | None = None
    holdout: float = 0.0  # share of each class's training images
    workers: int | None = None  # None = one per processor
    value: object = None  # of the source `memory`: what a factory would return

    @property
    def has_own_paths(self) -> bool:
        """Whether paths are given. `--data` is then the folder that they are relative to."""
        return bool(self.train or self.val or ":" in self.source)
