"""Lottery tickets: the weights of an earlier moment, under the masks that training found."""

from __future__ import annotations

import copy
from dataclasses import replace

from compressor.sparsity.masking import apply_masks_
from compressor.steps.state import PruningState, Snapshot


def save_weights(work: PruningState) -> PruningState:
    """The work with its weights, buffers and momentum kept for later."""
    weights = {name: each.detach().clone() for name, each in work.model.module.state_dict().items()}
    return replace(work, moment=Snapshot(weights, work.momentum))


def rewind_weights(work: PruningState) -> PruningState:
    """All as it was at the moment remembered, bit for bit, but for masked weights, which are zero."""
    assert work.moment is not None, "Rewind comes after Remember"
    module = copy.deepcopy(work.model.module)
    module.load_state_dict(work.moment.weights)
    apply_masks_(module, work.masks)
    return replace(work, model=replace(work.model, module=module), momentum=work.moment.momentum)
