"""Reconstruction with the variance correction that the model's own answers prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor, nn

from compressor.agreement import measure_agreement
from compressor.core import KeptIndices
from compressor.reconstruction.pair import Arguments
from compressor.reconstruction.problem import ReconstructionSettings
from compressor.reconstruction.sequential import Progress, ReconstructionResult, reconstruct

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
    """Reconstruct once for each power of the variance correction, and keep the one whose answers diverge least.

    Args:
        dense: the model before pruning, in eval mode.
        slim: the model after surgery, in eval mode.
        kept: tensor name -> dimension -> kept indices in the dense model's numbering.
        batches: calibration inputs that layers are solved on.
        judge: other inputs, which choose the power; neither fits nor reported agreement may use them.
        settings: how layers are solved.
        masks: weight of `slim` -> True where it may be other than zero.
        powers: candidates for `settings.variance`.
        progress: called after every layer, with the layers of all candidates in all.

    Returns:
        The best result; its seconds are those of all candidates.
    """
    results: list[ReconstructionResult] = []

    def counted(done: int, total: int) -> None:
        progress(len(results) * total + done, len(powers) * total)

    for power in powers:
        chosen = replace(settings, variance=power)
        results.append(reconstruct(dense, slim, kept, batches, chosen, masks, counted))
    best = min(results, key=lambda result: measure_agreement(dense, result.module, judge).divergence)
    return replace(best, seconds=sum(result.seconds for result in results))
