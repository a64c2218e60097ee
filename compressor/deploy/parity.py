"""Does an ONNX file answer as the PyTorch module does?"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.errors import VerificationFailed
from compressor.outputs import tensors

Array = NDArray[Any]

RELATIVE = 1e-4  # of each output's largest value
CONDITION = 16.0  # times PyTorch's own float32 rounding error
RELATIVE_AT_MOST = 1e-2  # however badly conditioned: beyond it a wrong file could hide


class CannotRun(Exception):
    """ONNX Runtime refuses the file, at some batch size or at all."""


@dataclass(frozen=True, slots=True)
class Parity:
    max_abs_error: float
    ok: bool


Inputs = Sequence[Tensor]
"""One batch, for each input of the module."""


def answers(module: nn.Module, inputs: Inputs) -> list[Array]:
    with torch.no_grad():
        return [tensor.detach().cpu().numpy() for tensor in tensors(module(*inputs))]


def check_parity(path: Path, module: nn.Module, batches: Sequence[Inputs]) -> Parity:
    """Compare ONNX Runtime (CPU, default options) with the module in float32 on every batch and every output.

    An output agrees when `max|onnx - torch| <= 1e-4 max|torch|`: relative to its own scale, since untrained networks
    answer with anything from 1e-12 to 1e6. A badly conditioned network may miss that and still be exported right, so
    then 16 times the module's own rounding error, measured against itself in float64, is allowed, up to 1 % of
    max|torch|.
    Raises CannotRun when ONNX Runtime refuses or answers in other shapes, VerificationFailed for NaN or infinity.
    """
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions; the library would print them as well
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CannotRun(str(error)) from error
    names = [node.name for node in session.get_outputs()]
    taken = [node.name for node in session.get_inputs()]
    largest, ok = 0.0, True
    exact: nn.Module | None = None
    for batch in batches:
        reference = answers(module, batch)
        try:
            feed = {name: each.numpy() for name, each in zip(taken, batch, strict=True)}
            found: list[Array] = session.run(None, feed)
        except Exception as error:
            raise CannotRun(f"batch {len(batch[0])}: {error}") from error
        shapes = [array.shape for array in reference]
        if [array.shape for array in found] != shapes:
            raise CannotRun(f"batch {len(batch[0])}: shapes {[array.shape for array in found]} instead of {shapes}")
        for place, (ours, theirs) in enumerate(zip(found, reference, strict=True)):
            difference = max_difference(ours, theirs, f"{path.name}, output {names[place]}")
            largest = max(largest, difference)
            if difference > RELATIVE * peak(theirs):
                exact = exact or copy.deepcopy(module).double()
                allowed = CONDITION * rounding(exact, batch, theirs, place)
                ok = ok and difference <= min(allowed, RELATIVE_AT_MOST * peak(theirs))
    return Parity(largest, ok)


def peak(array: Array) -> float:
    return float(np.abs(array.astype(np.float64)).max(initial=0.0))


def max_difference(found: Array, reference: Array, where: str) -> float:
    """`max|found - reference|`. Raises VerificationFailed unless all values are finite."""
    for who, array in (("PyTorch", reference), ("ONNX Runtime", found)):
        if not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise VerificationFailed(
                "non-finite numbers",
                where,
                f"{bad} of {array.size} values from {who} are NaN or infinite",
                "check the weights, and the normalisation statistics, of the model",
            )
    return peak(found.astype(np.float64) - reference.astype(np.float64))


def rounding(exact: nn.Module, batch: Inputs, reference: Array, place: int) -> float:
    """How far the module's float32 output lies from its float64 output; 0 where it can't run in float64."""
    try:
        truth = answers(exact, [each.double() if each.is_floating_point() else each for each in batch])[place]
    except RuntimeError:
        return 0.0
    error = peak(reference - truth) if truth.shape == reference.shape else 0.0
    return error if math.isfinite(error) else 0.0
