"""Modules of ONNX files: they have the samples first in every input with a batch, wherever the file has them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressor.core import BatchDims


class FileModule(nn.Module):
    """What the module of a file knows of the file's inputs and outputs."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    samples_apart: bool = False  # the file is fixed at a batch of one, so that samples run one after the other
    batch_dims: BatchDims = ()  # of the file's inputs

    def arranged_for_file(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Move the samples of each input from the first dimension to where the file has them."""
        return arranged(inputs, self.batch_dims)


def arranged(inputs: Sequence[Tensor], batch_dims: BatchDims) -> list[Tensor]:
    """Move samples from the first dimension to another one.

    Args:
        inputs: Tensors with the samples first, or without a batch dimension.
        batch_dims: Where each tensor is to have them; None = it has none.

    Returns:
        The tensors.
    """
    return [tensor.movedim(0, dim) if dim else tensor for tensor, dim in zip(inputs, batch_dims, strict=True)]


def as_file_takes(module: nn.Module, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Arrange inputs of a module as its ONNX file takes them.

    Args:
        module: The module.
        inputs: A batch of each input, with the samples where the module has them.

    Returns:
        The batches, with the samples where the file has them.
    """
    return module.arranged_for_file(inputs) if isinstance(module, FileModule) else inputs


def batch_at_most(module: nn.Module, size: int) -> int:
    """Limit batches to one sample for a module of a file that runs samples one after the other.

    Its calls are others for every batch size, and recorded calls run for one size only.

    Args:
        module: The module.
        size: The usual size.

    Returns:
        The size.
    """
    return 1 if isinstance(module, FileModule) and module.samples_apart else size
