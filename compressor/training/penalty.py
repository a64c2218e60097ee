"""Penalties and constraints: what acts on the weights during a training, beside the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


PenaltyGradient = Callable[["Tensor", "Tensor"], "Tensor"]
"""weights (N, ...), filters first, and which filters are pruned, bool (N,) -> the gradient at strength 1"""

StrengthSchedule = Callable[[int, int], float]
"""iteration (from 0), number of iterations -> factor on a penalty's gradient"""


@dataclass(frozen=True, slots=True)
class PenaltyTerm:
    """One term of a penalty and the parameters it applies to.

    `applies_to`: `filters` = the weights that write the groups which the plan prunes; `affines` = the scales, shifts
    and biases of these channels; `layers` = every convolution and linear layer except the first `skip_first`;
    `scales` = the scales of all normalisations.
    """

    gradient: PenaltyGradient
    strength: StrengthSchedule
    applies_to: Literal["filters", "affines", "layers", "scales"] = "filters"
    skip_first: int = 0


@dataclass(frozen=True, slots=True)
class Penalty:
    """Terms that are added to the gradient of the task's loss.

    `zero_from`: (index of the group, number of pruned groups, number of iterations) -> iteration from which the
    group's pruned channels are held at exactly zero, so that their removal is lossless; None = never.
    """

    name: str
    terms: tuple[PenaltyTerm, ...]
    zero_from: Callable[[int, int, int], int] | None = None


class Constraint(Protocol):
    """Acts on the weights in every iteration (counted from 0 in each training), by these methods in this order.

    A constraint is bound to a module's own parameters and has no state: everything follows from the weights and from
    `iteration`, so that a resumed run continues as if it had never been interrupted.
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


ConstraintFactory = Callable[["nn.Module", int], Constraint]
"""A module and the number of iterations it is trained for -> a constraint on its parameters.

Picklable (a `functools.partial` of a module's function): every process of a training binds its own.
"""
