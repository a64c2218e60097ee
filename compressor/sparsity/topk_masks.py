"""The best of all weights, wherever they are: masks that keep exactly so many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TopKMasks:
    """`saved`: tensors that would have kept nothing. They keep their best entry, or nothing without a guard."""

    masks: Mapping[str, Tensor]
    saved: tuple[str, ...]


def topk_masks(
    scores: Mapping[str, Tensor], keep: int, within: Mapping[str, Tensor], *, guard: bool = True
) -> TopKMasks:
    """Masks that are True for the `keep` largest scores of all tensors together, and nowhere outside of `within`.

    Exactly so many are kept: of equal scores those that come first. `keep` is at most what `within` holds, and with a
    guard at least the number of tensors that hold something.
    """
    open_to = {name: each.double().masked_fill(~within[name], -math.inf) for name, each in scores.items()}
    masks = _largest(open_to, keep)
    saved = tuple(name for name, mask in masks.items() if bool(within[name].any()) and not bool(mask.any()))
    if saved and guard:
        for name, each in open_to.items():
            if bool(within[name].any()):
                each.view(-1)[each.argmax()] = math.inf
        masks = _largest(open_to, keep)
    return TopKMasks(masks, saved)


def _largest(scores: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    flat = torch.cat([each.flatten() for each in scores.values()])
    least = flat.kthvalue(len(flat) - keep + 1).values
    kept, equal = flat > least, (flat == least).nonzero().flatten()
    kept[equal[: keep - int(kept.sum())]] = True
    parts = torch.split(kept, [each.numel() for each in scores.values()])
    return {name: part.view(each.shape) for (name, each), part in zip(scores.items(), parts, strict=True)}
