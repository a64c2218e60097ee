"""Penalties and constraints, which act on gradients and weights of a training in addition to the loss."""

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

    `applies_to`: `pruned_filters` = the weights that produce the groups which the plan prunes; `norm_params` = the
    scales, shifts and biases of these groups; `all_layers` = every convolution and linear layer except the first
    `skip_first`; `norm_scales` = the scales of all normalizations.
    """

    gradient: PenaltyGradient
    strength: StrengthSchedule
    applies_to: Literal["pruned_filters", "norm_params", "all_layers", "norm_scales"] = "pruned_filters"
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
    """Acts on the weights in every iteration, counted from 0 in each training, by these methods in this order.

    A constraint is bound to a module's own parameters and has no state: everything follows from the weights and from
    `iteration`, so that a resumed run continues as if it had never been interrupted.
    """

    def after_backward(self, iteration: int) -> None:
        """Change `.grad` in place after the backward pass."""
        ...

    def after_step(self, iteration: int) -> None:
        """Change weights in place after the step of the optimizer."""
        ...


ConstraintFactory = Callable[["nn.Module", int], Constraint]
"""A module and the number of iterations it is trained for -> a constraint on its parameters.

It is picklable (a class or function of a module, or a `functools.partial` of one), because every process of a training
calls it.
"""
