"""Rules that end a training before its last epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

RuleState = Mapping[str, "Tensor"]
"""what a rule passes from one epoch to the next; empty at first"""


@dataclass(frozen=True, slots=True)
class StopDecision:
    """A rule's decision after an epoch.

    `value` and `limit`: the compared numbers, for the log; None = there is nothing to compare yet.
    """

    memory: RuleState
    done: bool = False
    value: float | None = None
    limit: float | None = None


StopRule = Callable[[RuleState, int, Mapping[str, "Tensor"]], StopDecision]
"""the rule's state, epochs done so far, parameters by name -> decision

A rule is a pure fold over the epochs. It is called before the first epoch (with 0 epochs done) and after every epoch.
The weights are copies on the CPU. Rules are picklable, because every process of a training calls its own.
"""


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """End a training after the first epoch at which `rule` is done, or at its last epoch."""

    name: str
    rule: StopRule
