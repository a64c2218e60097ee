"""Which data, and how to read them: what a recipe's `data` block says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressor.core import Augment


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Labelled images and their task. Relative paths are relative to `--data`, or to the current folder."""

    source: str  # parquet | folder | digits | torchvision:NAME | path/to/file.py:factory
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

    @property
    def has_own_paths(self) -> bool:
        """Whether paths are given, which `--data` then is the folder of."""
        return bool(self.train or self.val or ":" in self.source)
