"""Samples without labels: what recovery needs of data, and what the agreement with the dense model is measured on.

A source gives inputs by row. The rows are split once, by a fixed seed: four fifths calibrate and train, one fifth is
held out, so that nothing that is chosen sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from compressor.core import ModelInput
from compressor.data.augmentation import Augmentation
from compressor.data.sampling import ProcessShare, process_share, shuffled
from compressor.data.splits import ImageSource
from compressor.errors import DataError
from compressor.tensors import Inputs

SAMPLE_SEED = 0
HELD_OUT = 0.2  # share of the samples that the agreement is measured on
LARGEST_HELD_OUT = 2048  # samples; more would cost time and say no more


class InputSource(Protocol):
    """Model inputs by row."""

    @property
    def names(self) -> Sequence[str]: ...

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Inputs]:
        """The inputs of every index tensor (B,)."""
        ...


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """Images of a split, whose targets are ignored, through `normalize`."""

    split: ImageSource
    normalize: Callable[[Tensor], Tensor]

    @property
    def names(self) -> Sequence[str]:
        return self.split.names

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Inputs]:
        chosen = ((batch, None) for batch in rows)
        return (images for images, _ in self.split.batches(chosen, Augmentation(), self.normalize))


@dataclass(frozen=True, slots=True)
class TensorInputs:
    """Tensors (N, ...), one for each input of the model, as the model takes them."""

    tensors: tuple[Tensor, ...]
    names: Sequence[str]

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Inputs]:
        for batch in rows:
            inputs = tuple(tensor[batch] for tensor in self.tensors)
            yield inputs[0] if len(inputs) == 1 else inputs


@dataclass(frozen=True, slots=True)
class Samples:
    """Implements `core.Data` without labels: its test batches are the held-out samples.

    In the place of targets, training batches have the rows of their samples (B,): a teacher's answers are kept by row.
    """

    name: str
    source: InputSource
    task: None = None
    num_classes: None = None

    @property
    def train_size(self) -> int:
        return len(self._split()[0])

    @property
    def val_size(self) -> int:
        return len(self._split()[1])

    @property
    def has_holdout(self) -> bool:
        return False

    def train_batches(
        self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: ProcessShare = (0, 1)
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Shuffled; the last odd batch is dropped, and a set smaller than a batch is one batch."""
        order = shuffled(self._split()[0], seed, epoch, None)
        size = min(batch_size, len(order))
        firsts = range(start * size, len(order) - size + 1, size)
        chosen = [process_share(order[first : first + size], part) for first in firsts]
        return zip(self.source.batches(chosen), chosen, strict=True)

    def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Inputs]:
        """A fixed sample of at most `images` samples, none of them held out."""
        return self.source.batches(torch.split(self._split()[0][:images], batch_size))

    def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Inputs, None]]:
        """The same sample, with None for the targets."""
        return ((inputs, None) for inputs in self.calibration_batches(batch_size, images=images))

    def holdout_batches(self, batch_size: int) -> Iterator[tuple[Inputs, None]]:
        """Nothing: without labels no epoch is chosen."""
        del batch_size
        return iter(())

    def val_batches(self, batch_size: int) -> Iterator[tuple[Inputs, None]]:
        """The held-out samples, in order; the last batch may be smaller."""
        return ((inputs, None) for inputs in self.source.batches(torch.split(self._split()[1], batch_size)))

    def _split(self) -> tuple[Tensor, Tensor]:
        """Rows to calibrate on, shuffled by a fixed seed, and rows that are held out, in order."""
        count = len(self.source.names)
        order = shuffled(torch.arange(count), SAMPLE_SEED, 0, None)
        held_out = min(max(round(HELD_OUT * count), 1), LARGEST_HELD_OUT)
        return order[held_out:], order[:held_out].sort().values


def check_samples(samples: Samples, inputs: Sequence[ModelInput]) -> Samples:
    """The samples, once their first batch is known to be what the model takes.

    Args:
        samples: the opened samples.
        inputs: what the model takes, without the batch dimension.

    Returns:
        `samples`.

    Raises:
        DataError: there are fewer than two samples, a shape or data type is another, or all samples are equal.
    """
    count = len(samples.source.names)
    if count < 2:
        problem = f"{count} samples, and one is held out to measure the agreement on"
        raise DataError("data/too-few-samples", samples.name, problem, "give at least 2, better 256 or more")
    first = next(iter(samples.calibration_batches(64, images=64)))
    tensors = first if isinstance(first, tuple) else (first,)
    for tensor, expected in zip(tensors, inputs, strict=True):
        if tuple(tensor.shape[1:]) != expected.shape:
            problem = f"samples of shape {_shape(tensor.shape[1:])}, the model takes {_shape(expected.shape)}"
            raise DataError(
                "data/sample-shape", f"{samples.name}: {expected.name}", problem, "resize them or set model.input"
            )
        if tensor.dtype != getattr(torch, expected.dtype):
            problem = f"samples of {tensor.dtype}, the model takes torch.{expected.dtype}"
            raise DataError("data/sample-type", f"{samples.name}: {expected.name}", problem, "convert them")
    if len(tensors[0]) > 1 and all(bool((tensor == tensor[:1]).all()) for tensor in tensors):
        raise DataError(
            "data/equal-samples", samples.name, f"the first {len(tensors[0])} samples are equal", "give real samples"
        )
    return samples


def check_finite_samples(tensors: Sequence[Tensor], names: Sequence[str], where: str) -> None:
    """Check that no sample holds a number that is not finite.

    Args:
        tensors: inputs (N, ...); integers pass.
        names: of the N samples, for the message.
        where: the file or factory they come from.

    Raises:
        DataError: names the first such sample.
    """
    for tensor in tensors:
        if tensor.is_floating_point() and len(tensor):
            finite = torch.isfinite(tensor).flatten(1).all(dim=1)
            if not bool(finite.all()):
                rows = (~finite).nonzero().flatten()
                problem = f"a number that is not finite ({len(rows)} of {len(names)} samples have one)"
                raise DataError("data/not-finite", f"{where}: {names[int(rows[0])]}", problem, "correct or remove it")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def to_inputs(value: Any, inputs: Sequence[ModelInput]) -> tuple[Tensor, ...]:
    """The tensors of one sample or batch, in the order of the model's inputs.

    Args:
        value: a tensor, a sequence of tensors in the model's order, or a mapping by input name.
        inputs: what the model takes.

    Returns:
        One tensor for each input.

    Raises:
        TypeError: the number or the names of the tensors are others than those of the inputs.
    """
    names = [expected.name for expected in inputs]
    if isinstance(value, dict):
        if len(inputs) == 1 and len(value) == 1:
            value = tuple(value.values())
        elif set(names) - set(value):
            raise TypeError(f"inputs {', '.join(map(str, value))}, the model takes {', '.join(names)}")
        else:
            value = tuple(value[name] for name in names)
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(values) != len(inputs):
        raise TypeError(f"{len(values)} tensors, the model takes {len(inputs)} ({', '.join(names)})")
    return tuple(torch.as_tensor(tensor) for tensor in values)
