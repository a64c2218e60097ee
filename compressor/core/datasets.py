"""Tasks, and the data they are learned from and judged on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


Augment = Literal["none", "flip", "cifar", "imagenet", "trivialaugment", "randaugment"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number told of a model: `total` of the mean over the test images of what `each` says of one.

    `each`: output and targets of a batch -> (B,) or (B, ...) statistics of every image by itself, such as counts of
    true and false positives; `total`: their mean, (...,), -> the number. Output is what the model returns in eval
    mode, in float32. A metric in % is compared by percentage points, any other by relative change.
    """

    name: str  # accuracy | rmse | ...
    each: Callable[[Any, Any], Tensor]
    total: Callable[[Tensor], Tensor | float] = float
    unit: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is asked to do. `loss`: output and targets of a batch, label smoothing -> scalar."""

    name: str
    loss: Callable[[Any, Any, float], Tensor]
    metric: Metric


class Data(Protocol):
    """Images as normalised float32 batches (B, C, H, W), each with its targets: labels (B,), int64, for
    classification; floats (B, ...) for regression; else what the task's loss takes.

    The test set (`val`) is read for reporting only; what has to be chosen is chosen by the held-out split, images of
    the training set that are never trained on.
    """

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> Task | None: ...  # None = samples without labels
    @property
    def num_classes(self) -> int | None: ...  # None = the targets are no classes
    @property
    def train_size(self) -> int: ...
    @property
    def has_holdout(self) -> bool: ...  # whether there is a held-out split

    def train_batches(
        self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Any, Any]]:
        """Shuffled and augmented, from batch `start` on; the same (epoch, seed) gives the same batches, whatever else
        drew numbers. A last odd batch is dropped.

        `part` = (rank, world): only this process's share of every batch of `batch_size`. The shares are contiguous,
        and together they are the batch of one process; their sizes differ by one where `world` does not divide it.
        """
        ...

    def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Any]:
        """A fixed sample of `images` training images, not augmented (calibration, parity, timing)."""
        ...

    def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Any, Any]]:
        """The same sample with its targets."""
        ...

    def holdout_batches(self, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """The held-out split, not augmented, in its order; empty where the recipe holds nothing out."""
        ...

    def val_batches(self, batch_size: int) -> Iterator[tuple[Any, Any]]: ...
