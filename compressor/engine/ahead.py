"""What can be told before a training: whether what is asked for after it can be met at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import dropwhile
from typing import TYPE_CHECKING

from compressor.core import Choose, MaskWeights, Step, Train
from compressor.engine.cutting import choose_channels
from compressor.engine.masking import check_masks
from compressor.engine.work import Surroundings, Work

if TYPE_CHECKING:
    from torch import Tensor


def look_ahead(steps: Sequence[Step], work: Work, around: Surroundings) -> None:
    """Raises what the last choice of channels or of weights after a training would raise, whatever their scores are:
    TargetNotReached, and RecipeError for a rule that names no layer. Times are not asked for."""
    after = list(dropwhile(lambda step: not isinstance(step, Train), steps))
    last = next((step for step in reversed(after) if isinstance(step, Choose | MaskWeights)), None)
    if isinstance(last, Choose):
        untimed = replace(last.selection, latency=None, latency_ms=None)
        choose_channels(Choose(_alike, untimed), work, replace(around, emit=lambda event, fields: None))
    elif last is not None:
        check_masks(last, work)


def _alike(rows_NK: Tensor) -> Tensor:
    return rows_NK.new_zeros(len(rows_NK))
