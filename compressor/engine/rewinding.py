"""Lottery tickets: the weights of an earlier moment, under the masks that training found."""

from __future__ import annotations

import copy
from dataclasses import replace

from compressor.engine.work import Moment, Work
from compressor.sparsity.layers import hold


def remember(work: Work) -> Work:
    """The work with its weights, buffers and momentum kept for later."""
    weights = {name: each.detach().clone() for name, each in work.model.module.state_dict().items()}
    return replace(work, moment=Moment(weights, work.momentum))


def rewind(work: Work) -> Work:
    """All as it was at the moment remembered, bit for bit, but for masked weights, which are zero."""
    assert work.moment is not None, "Rewind comes after Remember"
    module = copy.deepcopy(work.model.module)
    module.load_state_dict(work.moment.weights)
    hold(module, work.masks)
    return replace(work, model=replace(work.model, module=module), momentum=work.moment.momentum)
