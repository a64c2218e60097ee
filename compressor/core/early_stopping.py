"""When a training ends before its last epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

RuleState = Mapping[str, "Tensor"]
"""what a rule remembers from one epoch to the next; empty at first"""


@dataclass(frozen=True, slots=True)
class StopDecision:
    """What a rule makes of the weights after an epoch.

    `value` and `limit`: what it compares, for people to follow; None where there is nothing to compare yet.
    """

    memory: RuleState
    done: bool = False
    value: float | None = None
    limit: float | None = None


StopRule = Callable[[RuleState, int, Mapping[str, "Tensor"]], StopDecision]
"""what it remembers, epochs done so far, parameters by name -> its verdict

A pure fold over the course of the weights: asked before the first epoch (epochs done: 0) and after each one. The
weights are copies of its own, on the processor. Picklable, as every process of a training asks its own.
"""


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Ends a training at the first epoch after which `rule` is done; the training's epochs are the most it may take."""

    name: str
    rule: StopRule
