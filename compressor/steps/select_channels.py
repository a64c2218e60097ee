"""Select the channels to remove: score them, and keep the best that the target allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.budget.layer_rules import apply_freeze_rules, rules_naming_layers
from compressor.budget.target import PruningTarget
from compressor.criteria.base import WEIGHTS_ONLY, ChannelCriterion, ScoringContext, check_finite
from compressor.errors import TargetNotReached
from compressor.steps.base import Step
from compressor.steps.remove_channels import nothing_to_prune

if TYPE_CHECKING:
    from torch import nn

    from compressor.budget.greedy import Budget
    from compressor.core import ChannelGroup, FloatArray
    from compressor.steps.context import Context
    from compressor.steps.latency_search import LatencyEstimate, Plan
    from compressor.steps.state import PruningState


@dataclass(frozen=True, slots=True)
class SelectChannels(Step):
    """Score every channel and select those to remove."""

    selects_channels: ClassVar[bool] = True
    reaches_target: ClassVar[bool] = True

    criterion: ChannelCriterion
    target: PruningTarget

    def __str__(self) -> str:
        return f"SelectChannels({self.criterion.name})"

    @property
    def needs_data(self) -> bool:
        return self.criterion.needs_data

    def check_feasible(self, state: PruningState, context: Context) -> None:
        """Select by equal scores, without a latency target.

        Args:
            state: The state at the beginning of the run.
            context: What the step will run with.

        Raises:
            TargetNotReached: The target cannot be reached.
            RecipeError: A rule matches no layer.
        """
        from compressor.run_log import RunLog

        untimed = replace(self.target, latency=None, latency_ms=None)
        SelectChannels(_EqualScores(), untimed).run(state, replace(context, log=RunLog()))

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Select channels whose removal changes no others; if they are not enough, those that norms mix as well.

        Args:
            state: What the steps before it left.
            context: Data, seed, log and device.

        Returns:
            The state with a plan.

        Raises:
            TargetNotReached: The target cannot be reached.
            ModelError: No channel can be removed at all.
            VerificationFailed: A score is not finite.
        """
        state = state.with_graph()
        try:
            return self._select(state, context)
        except TargetNotReached:
            mixed = state.with_normalized_channels()
            if mixed is not None:
                return self._select(mixed, context)
            if state.removed is None and all(group.frozen for group in state.selected_graph.groups):
                raise nothing_to_prune(state.model.name, state.groups) from None
            raise

    def _select(self, state: PruningState, context: Context) -> PruningState:
        from compressor.budget.memory import memory_budgets
        from compressor.budget.selection import clamped_groups, select_channels
        from compressor.surgery.removal import relative_kept, removed_per_group

        graph, target, baseline = state.selected_graph, self.target, state.baseline
        scoring = ScoringContext(context.data, context.seed, state.selections, state.example_inputs(), context.log)
        scores = self.criterion.score_channels(state.model.module, state.groups, scoring)
        check_finite("channels", scores)
        removed_before: Mapping[str, int] = {}
        if state.removed is not None:  # groups of which one channel is left are no groups any more: no rule names them
            target = replace(target, rules=rules_naming_layers(state.groups, target.rules))
            kept = relative_kept(baseline.kept, state.model.kept)
            removed_before = removed_per_group(state.groups, baseline.groups, state.removed, kept)
        limits = memory_budgets(target, graph, baseline.cost, baseline.graph)
        pick = partial(select_channels, state.groups, scores, target, graph.cost, baseline.cost, gone=removed_before)
        latency: LatencyEstimate | None = None
        if target.has_latency_target:
            (plan, groups), latency = self._meet_latency(state, context, pick, scores, limits)
        else:
            plan, groups = pick(limits)
            if plan.round_to != target.round_to:
                coarse = f"multiples of {target.round_to} are too coarse for the target"
                context.log.note(f"{coarse}: widths are multiples of {plan.round_to}")
        if target.scope == "global" and (names := clamped_groups(scores, plan)):
            context.log.note(f"no channel would have been left of {', '.join(names)}: the best of each is kept")
        if state.removed is not None:
            baseline = replace(baseline, groups=apply_freeze_rules(baseline.groups, self.target.rules))
        else:
            baseline = replace(baseline, groups=groups)
        state = replace(state, baseline=baseline, groups=groups, plan=plan, selections=state.selections + 1)
        return replace(state, latency=latency)

    def _meet_latency(
        self,
        state: PruningState,
        context: Context,
        pick: Callable[..., Plan],
        scores: Mapping[str, FloatArray],
        limits: Sequence[Budget],
    ) -> tuple[Plan, LatencyEstimate | None]:
        """Measure which widths meet the target; a resumed run keeps the widths it had, which have no latency then."""
        from compressor.budget.selection import plan_from_widths
        from compressor.steps.latency_search import search_widths

        module, target = state.model.module, self.target
        estimates: list[LatencyEstimate] = []

        def search() -> dict[str, Any]:
            assert context.latency_probe is not None, "recipes with a latency target name a device"
            baseline = module if state.removed is None else state.baseline.module
            plan, estimate = search_widths(
                target, module, state.selected_graph, pick, limits,
                baseline=baseline, probe=context.latency_probe, emit=context.log,
            )  # fmt: skip
            estimates.append(estimate)
            widths = {name: int(kept_C.sum()) for name, kept_C in plan.kept.items()}
            return {"round_to": plan.round_to, "widths": widths}

        decision = context.log.decision(f"widths for the latency of selection {state.selections}", search)
        rules = rules_naming_layers(state.groups, target.rules) if state.removed is not None else target.rules
        plan, groups = plan_from_widths(state.groups, scores, decision["widths"], rules)
        return (replace(plan, round_to=decision["round_to"]), groups), estimates[0] if estimates else None


class _EqualScores:
    """A criterion that knows nothing: whether a target can be reached does not depend on scores."""

    name, needs_data = "equal", False

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        from compressor.criteria.aggregate import mean_over_writers

        return mean_over_writers(module, groups, lambda rows_NK: rows_NK.new_zeros(len(rows_NK)))
