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
        data: It has a held-out split.

    Returns:
        A divergence for each network; infinite where it is not a number.
    """
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
    from compressor.agreement import classes_scored, measure_agreements

    classes = classes_scored(state.model.spec, data)
    agreements = measure_agreements(state.baseline.module, modules, batches, classes, data.batch_dims)
    return [one.divergence if math.isfinite(one.divergence) else math.inf for one in agreements]
