"""Masks that keep a given number of the best weights of the network, wherever they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TopKMasks:
    """Masks by tensor name. `saved`: tensors of which no weight was among the best; the guard keeps their best one."""

    masks: Mapping[str, Tensor]
    saved: tuple[str, ...]


def topk_masks(
    scores: Mapping[str, Tensor], keep: int, within: Mapping[str, Tensor], *, guard: bool = True
) -> TopKMasks:
    """Keep the largest scores of all tensors together; of equal scores the first.

    Args:
        scores: By tensor name.
        keep: The number of weights to keep: at most the number of candidates, and with a guard at least the number of
            tensors that have candidates.
        within: True for candidates, in the shapes of `scores`.
        guard: Keep at least one candidate of each tensor.

    Returns:
        Masks that are True for exactly `keep` weights.
    """
    candidates = {name: score.double().masked_fill(~within[name], -math.inf) for name, score in scores.items()}
    masks = _largest(candidates, keep)
    saved = tuple(name for name, mask in masks.items() if bool(within[name].any()) and not bool(mask.any()))
    if saved and guard:
        for name, score in candidates.items():
            if bool(within[name].any()):
                score.view(-1)[score.argmax()] = math.inf
        masks = _largest(candidates, keep)
    return TopKMasks(masks, saved)


def _largest(scores: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    flat = torch.cat([score.flatten() for score in scores.values()])
    threshold = flat.kthvalue(len(flat) - keep + 1).values
    kept, equal = flat > threshold, (flat == threshold).nonzero().flatten()
    kept[equal[: keep - int(kept.sum())]] = True
    parts = torch.split(kept, [score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}
