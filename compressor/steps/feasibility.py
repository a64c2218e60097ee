"""What can be told before a training: whether what is asked for after it can be met at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import dropwhile
from typing import TYPE_CHECKING

from compressor.core import MaskUnstructured, SelectChannels, Step, Train
from compressor.steps.mask_weights import check_mask_budget
from compressor.steps.prune_channels import select
from compressor.steps.state import Context, PruningState

if TYPE_CHECKING:
    from torch import Tensor


def check_feasible(steps: Sequence[Step], work: PruningState, around: Context) -> None:
    """Raises what the last choice of channels or of weights after a training would raise, whatever their scores are:
    TargetNotReached, and RecipeError for a rule that names no layer. Times are not asked for."""
    after = list(dropwhile(lambda step: not isinstance(step, Train), steps))
    last = next((step for step in reversed(after) if isinstance(step, SelectChannels | MaskUnstructured)), None)
    if isinstance(last, SelectChannels):
        untimed = replace(last.selection, latency=None, latency_ms=None)
        select(SelectChannels(_alike, untimed), work, replace(around, emit=lambda event, fields: None))
    elif last is not None:
        check_mask_budget(last, work)


def _alike(rows_NK: Tensor) -> Tensor:
    return rows_NK.new_zeros(len(rows_NK))
