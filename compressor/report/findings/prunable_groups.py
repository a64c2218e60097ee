"""What the model allows to prune, what the recipe freezes, and what was pruned: three different facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from compressor.core import ChannelGroup, PrunableShare
from compressor.report.blocks import Block, Fact, Section, Table
from compressor.report.findings.base import Finding, Report
from compressor.report.run_result import RunResult

if TYPE_CHECKING:
    from compressor.graph.cost import CostModel

OVERLAP = "A MAC depends on an input and an output channel, so the shares of different groups overlap."


class FrozenGroup(TypedDict):
    """A group that was not pruned, and why."""

    name: str
    reason: str


class GroupsRecord(TypedDict):
    """`pruned`: groups that lost channels."""

    total: int
    pruned: int
    frozen: list[FrozenGroup]


class ReasonShare(TypedDict):
    """The groups that are frozen for one reason, and the share of the multiply-adds that depends on their channels."""

    reason: str
    groups: int
    channels: int
    macs_percent: float


class GroupShare(TypedDict):
    """Some of the groups, and the share of the multiply-adds that depends on their channels."""

    groups: int
    channels: int
    macs_percent: float


class Coverage(TypedDict):
    """How much can be pruned. Layers are the writers of groups; `prunable_*` is what remains after the recipe froze
    groups. `frozen_macs`: by reason, the largest share first. `model`: what the model itself allows. `recipe`: groups
    that the model allows to prune and the recipe freezes, None where it freezes none. Groups that the criterion has no
    scores for are among those that the model allows, and not among those of the recipe."""

    layers: int
    prunable_layers: int
    channels: int
    prunable_channels: int
    prunable_macs_percent: float
    frozen_macs: list[ReasonShare]
    model: GroupShare
    recipe: GroupShare | None


class PrunableGroups(Finding):
    """Channel groups: pruned, prunable, frozen by the model, frozen by the recipe."""

    order = 220
    detail = True

    def record(self, run: RunResult) -> Mapping[str, object]:
        state = run.state
        groups, plan = state.baseline.groups, state.removed
        pruned = sum(not bool(kept.all()) for kept in plan.kept.values()) if plan else 0
        return {
            "groups": GroupsRecord(total=len(groups), pruned=pruned, frozen=frozen_groups(groups)),
            "coverage": coverage_record(groups, state.baseline.graph.cost),
        }

    def terminal(self, report: Report) -> Iterable[Block]:
        groups: GroupsRecord = report["groups"]
        yield Fact("Groups", f"{groups['pruned']} of {groups['total']} channel groups were pruned")
        yield from coverage_facts(report["coverage"], groups["total"])

    def page(self, report: Report) -> Iterable[Block]:
        yield from self.terminal(report)
        frozen: list[FrozenGroup] = report["groups"]["frozen"]
        if not frozen:
            return
        shares = [
            (share["reason"], str(share["groups"]), f"{share['channels']:,}", f"{share['macs_percent']:.1f} %")
            for share in report["coverage"]["frozen_macs"]
        ]
        rows = [(group["name"], group["reason"]) for group in frozen]
        by_reason = Table(("reason", "groups", "channels", "MACs that depend on them"), shares)
        summary = f"All frozen groups by name ({len(rows)})"
        by_group = Table(("group", "reason"), rows, summary=summary, facts=True)
        yield Section("Frozen groups", [OVERLAP, by_reason, by_group])


def frozen_groups(groups: Iterable[ChannelGroup]) -> list[FrozenGroup]:
    """The frozen ones, with their reasons."""
    return [{"name": group.name, "reason": group.frozen.reason} for group in groups if group.frozen]


def coverage_record(groups: Sequence[ChannelGroup], cost: CostModel) -> Coverage:
    """Return how much of the layers, channels and multiply-adds can be pruned, and why the rest can't.

    Args:
        groups: The channel groups.
        cost: The cost of the model as a function of the channels removed from each group.

    Returns:
        The JSON under `coverage`.
    """
    from compressor.graph.prunable_share import prunable_shares, share_of

    shares = prunable_shares(groups, cost)
    free = [group for group in groups if group.frozen is None]
    by = [group.frozen.by if group.frozen else None for group in groups]
    by_recipe = [kind == "recipe" for kind in by]
    return {
        "layers": len(_written_tensors(groups)),
        "prunable_layers": len(_written_tensors(free)),
        "channels": sum(group.size for group in groups),
        "prunable_channels": sum(group.size for group in free),
        "prunable_macs_percent": 100 * shares[0].macs,
        "frozen_macs": [{"reason": share.frozen.reason, **_group_share(share)} for share in shares if share.frozen],
        "model": _group_share(share_of(groups, cost, [kind != "model" for kind in by])),
        "recipe": _group_share(share_of(groups, cost, by_recipe)) if any(by_recipe) else None,
    }


def _written_tensors(groups: Iterable[ChannelGroup]) -> set[str]:
    return {slot.tensor for group in groups for slot in group.writers()}


def _group_share(share: PrunableShare) -> GroupShare:
    return {"groups": share.groups, "channels": share.channels, "macs_percent": 100 * share.macs}


def coverage_facts(coverage: Coverage, total: int) -> Iterable[Fact]:
    """Yield what the model allows, and what the recipe freezes.

    Args:
        coverage: How much can be pruned.
        total: Number of channel groups.
    """
    model, recipe = coverage["model"], coverage["recipe"]
    allowed = f"{model['groups']} of {total} groups can be pruned"
    yield Fact("Model allows", f"{allowed}; {model['macs_percent']:.1f} % of the MACs depend on their channels")
    if recipe is None:
        return
    share = f"{recipe['macs_percent']:.1f} % of the MACs depend on their channels"
    yield Fact("Recipe freezes", f"{recipe['groups']} of these {model['groups']} groups; {share}. {OVERLAP}")
