"""A target approached in several rounds, each scored anew on what the rounds before left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compressor.budget.target import PruningTarget
from compressor.criteria.base import ChannelCriterion
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels

SHARES = ("macs", "params", "weights", "nodes", "size", "memory", "latency")


def halving_shares(limit: float, halvings: int = 5) -> tuple[float, ...]:
    """Shares removed after each round: half at first, then each time half of what is still to go, the limit at last:

        limit - (limit - start) / 2^i  for i = 0 to `halvings`, then limit

    with start = 1/2 for limits above it, and half the limit for others. The schedule of SNAP-it and CroPit: Verdenius,
    Stol and Forré, arXiv:2006.00896; Rachwan et al., arXiv:2206.10451, whose 5 halvings make 7 rounds.
    """
    start = 0.5 if limit > 0.5 else limit / 2
    return (*(limit - (limit - start) * 0.5**number for number in range(halvings + 1)), limit)


def round_targets(last: PruningTarget, halvings: int = 5) -> tuple[PruningTarget, ...]:
    """What each round is asked for; the last is what the recipe asks for. Of targets that are shares of the original,
    what is removed follows `halving_shares`; milliseconds count in the last round only."""
    shares = {name: share for name in SHARES if (share := getattr(last, name)) is not None}
    courses = {name: [1 - gone for gone in halving_shares(1 - share, halvings)] for name, share in shares.items()}
    if last.ratio is not None:
        courses["ratio"] = list(halving_shares(last.ratio, halvings))
    if not courses:
        return (last,)
    before: list[dict[str, Any]] = [
        {name: course[number] for name, course in courses.items()} for number in range(halvings + 1)
    ]
    return (*(replace(last, latency_ms=None, **each) for each in before), last)


def in_rounds(criterion: ChannelCriterion, last: PruningTarget, halvings: int = 5) -> tuple[Step, ...]:
    """The choices and removals, with nothing between them."""
    asked = round_targets(last, halvings)
    return tuple(
        step for each in asked for step in (SelectChannels(criterion, each), RemoveChannels(last=each is asked[-1]))
    )
