"""Sensitivity of a model's answers to the error of one group, measured without labels on held-out samples.

One group alone is cut to about half and its readers are refitted; the divergence of the answers, over the error that
the group's curve gives there, is its sensitivity. Divergence and error are both of second order in the change, so that
their ratio hardly depends on how much is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from compressor.agreement import AgreementMeter
from compressor.batches import batch_length, output_batch_dims
from compressor.core import BatchDims, ChannelGroup, ErrorCurve
from compressor.error_curves.readers import MeasuredReader
from compressor.error_curves.single_cut import cut_tensors

SMALL = 0.02
"""A cut whose error is smaller is widened, up to seven eighths of the channels."""


@dataclass(frozen=True, slots=True)
class SingleCut:
    """What cutting one group alone did to the answers."""

    divergence: float
    changed: float | None  # share of samples with another best class; None without classes


def measure_sensitivities(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    readers: Mapping[str, Sequence[MeasuredReader]],
    curves: Mapping[str, ErrorCurve],
    batches: Sequence[tuple[Tensor, ...]],
    num_classes: int | None,
    batch_dims: BatchDims | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, ErrorCurve], list[SingleCut]]:
    """Add its sensitivity to every curve.

    Args:
        module: The dense model, in eval mode.
        groups: The groups.
        readers: Group -> its measured readers.
        curves: Group -> its error curve.
        batches: Held-out samples.
        num_classes: What `classes_scored` returns.
        batch_dims: Batch dimension of each input; None = the first of all.
        progress: Called after every group.

    Returns:
        The curves with sensitivities, and what each cut did.
    """
    with torch.inference_mode():
        dense = [module(*inputs) for inputs in batches]
    output_dims = output_batch_dims(module, batches[0], batch_dims)
    cuts, weighted = [], {}
    for number, group in enumerate(group for group in groups if group.name in curves):
        curve = curves[group.name]
        removed = _probe(curve)
        kept = torch.ones(group.size, dtype=torch.bool)
        kept[torch.from_numpy(curve.order[:removed])] = False
        tensors = cut_tensors(module, group, readers.get(group.name, ()), kept)
        meter = AgreementMeter(num_classes, output_dims)
        with torch.inference_mode():
            for inputs, answers in zip(batches, dense, strict=True):
                cut = torch.func.functional_call(module, tensors, inputs)
                meter.update(answers, cut, batch_length(inputs, batch_dims))
        agreement = meter.compute()
        divergence = float(np.mean([output.squared_divergence for output in agreement.outputs]))
        top1 = agreement.class_scores.top1 if agreement.class_scores else None
        cuts.append(SingleCut(divergence, None if top1 is None else 1 - top1))
        error = float(curve.errors[removed])
        sensitivity = divergence / error if error > 1e-12 else 0.0
        weighted[group.name] = replace(curve, sensitivity=sensitivity if math.isfinite(sensitivity) else 1e6)
        progress(number + 1, len(curves))
    return weighted, cuts


def _probe(curve: ErrorCurve) -> int:
    """Channels to remove: half of them, more where that hardly changes anything."""
    size = len(curve.errors)
    enough = int(np.searchsorted(curve.errors, SMALL))
    return max(size // 2, min(enough, size * 7 // 8), 1 if size > 1 else 0)
