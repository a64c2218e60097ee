"""Methods that prune in several rounds. Each round scores again what the rounds before it have left."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compressor.budget.rounds import exponential_remaining, linear_remaining
from compressor.budget.target import PruningTarget
from compressor.criteria.base import ChannelCriterion
from compressor.field_types import Count, FormerKey
from compressor.methods.base import SettingsGroup
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels

HalvingRounds = Annotated[
    Count,
    FormerKey("halvings", lambda halvings: halvings + 2 if type(halvings) is int else halvings),
    Field(description="number of rounds; each removes half of what is still to be removed, the last all of it"),
]


class PruningRounds(SettingsGroup):
    """Rounds in which the share of the weights that remains falls to the target."""

    rounds: Count = Field(default=60, description="number of rounds")
    schedule: Annotated[Literal["exponential", "linear"], FormerKey("course")] = Field(
        default="exponential",
        description="exponential = each round keeps the same share of what is left; linear = each removes the same "
        "number of weights",
    )

    def remaining(self, share: float) -> tuple[float, ...]:
        """Return the share of weights that remains after each round, `share` after the last one."""
        remaining = exponential_remaining if self.schedule == "exponential" else linear_remaining
        return remaining(share, self.rounds)


def remove_in_rounds(criterion: ChannelCriterion, targets: tuple[PruningTarget, ...]) -> tuple[Step, ...]:
    """Return the steps that select and remove channels round by round, with no training between the rounds.

    Args:
        criterion: Gives the score of every channel, again in each round.
        targets: The target of each round.

    Returns:
        Two steps for each round.
    """
    steps: tuple[Step, ...] = ()
    for number, target in enumerate(targets, start=1):
        steps += (SelectChannels(criterion, target), RemoveChannels(last=number == len(targets)))
    return steps
