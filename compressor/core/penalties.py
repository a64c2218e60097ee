"""What acts on weights while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


PenaltyGradient = Callable[["Tensor", "Tensor"], "Tensor"]
"""weights (N, ...), filters first, and which of them leave, bool (N,) -> its gradient at strength 1"""

StrengthSchedule = Callable[[int, int], float]
"""iteration, from 0, and how many there are in all -> factor on a pull"""


@dataclass(frozen=True, slots=True)
class PenaltyTerm:
    """One pull, on the weights that write the groups the plan cuts (`filters`), on what scales and shifts their
    channels (`affines`), on every convolution and linear layer but the first `spare` (`layers`), or on what all
    normalisations multiply channels by (`scales`)."""

    pull: PenaltyGradient
    strength: StrengthSchedule
    on: Literal["filters", "affines", "layers", "scales"] = "filters"
    spare: int = 0


@dataclass(frozen=True, slots=True)
class Penalty:
    """What is added to the gradient of the task's loss.

    `zero_from`: (index of the group, number of pruned groups, iterations in all) -> iteration from which the group's
    pruned channels are held at exactly zero, so that taking them out changes nothing; None = never.
    """

    name: str
    terms: tuple[PenaltyTerm, ...]
    zero_from: Callable[[int, int, int], int] | None = None


class Constraint(Protocol):
    """What acts on weights while they are trained, in this order once an iteration (counted from 0 in each training).

    It is bound to the module's own parameters and has no state: all it does follows from the weights and `iteration`,
    so that a run that was interrupted goes on as if it had not been.
    """

    def loss(self, iteration: int) -> Tensor | None:
        """A scalar added to the loss of the task; None for nothing."""
        ...

    def after_backward(self, iteration: int) -> None:
        """After the backward pass: may change `.grad` in place."""
        ...

    def after_step(self, iteration: int) -> None:
        """After the optimizer's step: may change weights in place."""
        ...


OptimizerState = Mapping[str, Mapping[str, "Tensor"]]
"""parameter -> what an optimizer remembers of it: name -> tensor, of the parameter's shape or a single number"""

ConstraintFactory = Callable[["nn.Module", int], Constraint]
"""A module and the number of iterations it is trained for -> a constraint on its parameters.

Picklable (a `functools.partial` of a module's function): every process of a training binds its own.
"""
