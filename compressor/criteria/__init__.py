"""Criteria, one a file: what channels and weights are compared by. A criterion is discovered, never registered."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from compressor.criteria.base import ChannelCriterion


@cache
def channel_criteria() -> dict[str, ChannelCriterion]:
    """Return the criteria that `prune.criterion` may name: the instances that the files here define, by name.

    Files with an underscore help to compute scores. They import torch, which reading a recipe must not.
    """
    criteria: dict[str, ChannelCriterion] = {}
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{info.name}")
            values = [value for value in vars(module).values() if hasattr(value, "score_channels")]
            criteria |= {value.name: value for value in values if not isinstance(value, type)}
    return dict(sorted(criteria.items()))
