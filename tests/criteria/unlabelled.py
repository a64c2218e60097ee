"""Samples without labels, as criteria receive them."""

from __future__ import annotations

from torch import Tensor

from compressor.data.samples import Samples, TensorInputs


def unlabelled(*inputs: Tensor, repeats: int = 1) -> Samples:
    """Samples of which four fifths are for calibration; repeated, so that a small set gives many batches."""
    tensors = tuple(tensor.repeat(repeats, *(1,) * (tensor.ndim - 1)) for tensor in inputs)
    return Samples("samples", TensorInputs(tensors, [str(index) for index in range(len(tensors[0]))]))
