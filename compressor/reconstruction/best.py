"""Reconstruction with the variance correction that agrees best with the dense model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn

from compressor.agreement import measure_agreement
from compressor.core import KeptIndices
from compressor.reconstruction.pair import Arguments
from compressor.reconstruction.sequential import Progress, ReconstructionResult, reconstruct
from compressor.reconstruction.solver_options import ReconstructionSettings

POWERS = (0.0, 0.5, 1.0)


def reconstruct_best(
    dense: nn.Module,
    slim: nn.Module,
    kept: KeptIndices,
    batches: Sequence[Arguments],
    judge: Sequence[Arguments],
    settings: ReconstructionSettings,
    masks: Mapping[str, Tensor] = MappingProxyType({}),
    powers: Sequence[float] = POWERS,
    progress: Progress = lambda done, total: None,
) -> ReconstructionResult:
    """Reconstruct once for each power of the variance correction, and keep the result whose outputs diverge least.

    Args:
        dense: The model before pruning, in eval mode.
        slim: The model after surgery, in eval mode.
        kept: Tensor name -> dimension -> kept indices in the dense model's numbering.
        batches: Calibration inputs that layers are solved on.
        judge: Other inputs, which choose the power; neither fits nor reported agreement may use them.
        settings: How layers are solved.
        masks: Weight of `slim` -> True where it may be other than zero.
        powers: Candidates for `settings.variance`.
        progress: Called after every layer; its total is the layers of all candidates.

    Returns:
        The best result; its seconds are those of all candidates.
    """
    results: list[ReconstructionResult] = []
    for number, power in enumerate(powers):
        chosen = replace(settings, variance=power)
        overall = partial(_overall_progress, progress, number, len(powers))
        results.append(reconstruct(dense, slim, kept, batches, chosen, masks, overall))
    best = min(results, key=lambda result: measure_agreement(dense, result.module, judge).divergence)
    return replace(best, seconds=sum(result.seconds for result in results))


def _overall_progress(progress: Progress, number: int, count: int, done: int, total: int) -> None:
    """Report the layers of one candidate as a part of those of all candidates."""
    progress(number * total + done, count * total)
