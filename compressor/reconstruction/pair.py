"""The dense and the slim model, with their recorded programs by batch size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressor.batches import batch_length, join_batches, samples_between, samples_first
from compressor.core import BatchDims, KeptIndices
from compressor.errors import DataError
from compressor.file_module import batch_at_most
from compressor.reconstruction.program import Program, record
from compressor.reconstruction.solvable_layers import find_layers, with_branches_last

Arguments = tuple[Tensor, ...]
"""The arguments of a model for one batch."""


class ModelPair:
    """Both models on the same batches. The slim one's weights change while its layers are solved."""

    def __init__(
        self,
        dense: nn.Module,
        slim: nn.Module,
        kept: KeptIndices,
        inputs: Sequence[Arguments],
        batch_dims: BatchDims | None = None,
    ) -> None:
        """Record nothing yet.

        Args:
            dense: The model before pruning.
            slim: The model after surgery.
            kept: Tensor name -> dimension -> kept indices in the dense model's numbering.
            inputs: Calibration batches.
            batch_dims: Batch dimension of each input; None = the first of all.
        """
        self.dense, self.slim, self.kept, self.inputs, self._batch_dims = dense, slim, kept, inputs, batch_dims
        self.images = self.images_of(inputs[0])  # of a full batch
        self._dense_programs: dict[int, Program] = {}
        self._slim_programs: dict[int, Program] = {}

    def images_of(self, inputs: Arguments) -> int:
        """Return the number of samples in a batch."""
        return batch_length(inputs, self._batch_dims)

    def dense_program(self, images: int) -> Program:
        """Look up the dense program for a batch of this size; record it at its first use."""
        if images not in self._dense_programs:
            self._dense_programs[images] = record(self.dense, *self._example(images))
        return self._dense_programs[images]

    def slim_program(self, images: int) -> Program:
        """Look up the slim program for a batch of this size, with the last layers of branches moved back."""
        if images not in self._slim_programs:
            program = record(self.slim, *self._example(images))
            self._slim_programs[images] = with_branches_last(program, find_layers(program))
        return self._slim_programs[images]

    def _example(self, images: int) -> Arguments:
        return next(inputs for inputs in self.inputs if self.images_of(inputs) == images)


def refuse_non_finite(samples: Tensor) -> None:
    """Raise an error that names the first sample with NaN or infinity, to which no layer can be fitted.

    Args:
        samples: Samples along dimension 0.

    Raises:
        DataError: A sample is not finite.
    """
    if samples.is_floating_point():
        broken = (~torch.isfinite(samples)).reshape(len(samples), -1).any(1).nonzero().flatten().tolist()
        if broken:
            problem = f"NaN or infinity in {len(broken)} of {len(samples)} samples"
            raise DataError("calibration/not-finite", f"sample {broken[0]}", problem, "remove or repair these samples")


def rebatch(
    module: nn.Module, batches: Sequence[Arguments], size: int, batch_dims: BatchDims | None = None
) -> list[Arguments]:
    """Split the samples into batches, small enough that several of them can be held out.

    Args:
        module: The model, whose inputs they are.
        batches: Batches of any sizes.
        size: Most samples in a batch.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        The same samples in their order.

    Raises:
        DataError: A sample is not finite.
    """
    columns = join_batches(batches, batch_dims)
    for column in samples_first(columns, batch_dims):
        refuse_non_finite(column)
    count = batch_length(columns, batch_dims)
    size = batch_at_most(module, max(1, min(size, count // 10)))
    return [samples_between(columns, at, at + size, batch_dims) for at in range(0, count, size)]
