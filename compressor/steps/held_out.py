"""What steps without labels are judged by: the divergence from the dense model on samples that nothing is fitted to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from compressor.steps.calibration import BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from compressor.core import Data
    from compressor.steps.state import PruningState
    from compressor.tensors import Inputs

JUDGES = 256  # samples


def held_out_divergences(state: PruningState, modules: Sequence[nn.Module], data: Data) -> list[float]:
    """Compute the divergence of several networks from the dense model on the same held-out samples.

    Args:
        state: It has the dense model.
        modules: The networks.
        data: It has a held-out split, or nothing is compared.

    Returns:
        A divergence for each network; infinite where it is not a number.
    """
    if not data.has_holdout:
        return [math.inf for _ in modules]
    batches = [inputs for inputs, _ in data.holdout_batches(BATCH_SIZE, images=JUDGES)]
    return divergences_on(batches, state, modules, data)


def divergences_on(
    batches: Sequence[Inputs], state: PruningState, modules: Sequence[nn.Module], data: Data
) -> list[float]:
    """Compute the divergence of several networks from the dense model on the same samples.

    Args:
        batches: The samples.
        state: It has the dense model.
        modules: The networks.
        data: It knows what the outputs are.

    Returns:
        A divergence for each network; infinite where it is not a number.
    """
    import torch

    from compressor.agreement import AgreementMeter, classes_scored
    from compressor.batches import batch_length, output_batch_dims
    from compressor.tensors import call_module

    dense, dims = state.baseline.module, data.batch_dims
    output_dims = output_batch_dims(dense, batches[0], dims)
    classes = classes_scored(state.model.spec, data)
    meters = [AgreementMeter(classes, output_dims) for _ in modules]
    with torch.inference_mode():
        for inputs in batches:
            answer = call_module(dense, inputs)
            for meter, module in zip(meters, modules, strict=True):
                meter.update(answer, call_module(module, inputs), batch_length(inputs, dims))
    values = [meter.compute().divergence for meter in meters]
    return [value if math.isfinite(value) else math.inf for value in values]
