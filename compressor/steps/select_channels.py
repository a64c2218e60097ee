"""Select the channels to remove: score them, and keep the best that the target allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.budget.layer_rules import apply_freeze_rules, rules_naming_layers
from compressor.budget.target import PruningTarget
from compressor.criteria.base import ChannelCriterion, check_finite
from compressor.errors import TargetNotReached
from compressor.steps.base import Step
from compressor.steps.remove_channels import nothing_to_prune

if TYPE_CHECKING:
    from compressor.budget.greedy import Budget
    from compressor.core import ErrorCurves, FloatArray, Freeze, PrunePlan
    from compressor.steps.context import Context
    from compressor.steps.latency_probe import LatencyEstimate
    from compressor.steps.latency_search import Plan
    from compressor.steps.rank_channels import Ranking
    from compressor.steps.state import PruningState


@dataclass(frozen=True, slots=True)
class Selection:
    """The channels that are kept, and why; a resumed run reads it."""

    plan: PrunePlan
    frozen: Mapping[str, Freeze | None]  # group -> why it keeps all of its channels; all groups
    errors: ErrorCurves | None
    latency: LatencyEstimate | None
    notes: Sequence[str]


Choose = Callable[["PruningState"], Selection]


@dataclass(frozen=True, slots=True)
class SelectChannels(Step):
    """Score every channel and select those to remove."""

    selects_channels: ClassVar[bool] = True
    reaches_target: ClassVar[bool] = True

    criterion: ChannelCriterion
    target: PruningTarget
    images: int = 1024  # that error curves are computed from

    def __str__(self) -> str:
        return f"SelectChannels({self.criterion.name})"

    @property
    def needs_data(self) -> bool:
        return self.criterion.needs_data or self.target.scope == "error"

    def check_feasible(self, state: PruningState, context: Context) -> None:
        """Select by equal scores, without a latency target.

        Args:
            state: The state at the beginning of the run.
            context: What the step will run with.

        Raises:
            TargetNotReached: The target cannot be reached.
            RecipeError: A rule matches no layer.
        """
        from compressor.criteria._aggregate import mean_over_writers
        from compressor.run_log import RunLog
        from compressor.steps.rank_channels import Ranking

        untimed = replace(self, target=replace(self.target, latency=None, latency_ms=None))
        silent = replace(context, log=RunLog())

        def choose(state: PruningState) -> Selection:
            scores = mean_over_writers(
                state.model.module, state.groups, lambda rows_NK: rows_NK.new_zeros(len(rows_NK))
            )
            return untimed._chosen(state, silent, Ranking(scores))

        untimed._select_any(state, silent, choose)

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Select channels whose removal changes no others; if they are not enough, those that norms mix as well.

        They are not enough either where some layer would keep less than a quarter of its channels: the share is then
        levelled over all that can be removed.

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
        from compressor.core import ErrorCurve, ErrorCurves, Freeze, PrunePlan
        from compressor.steps.latency_probe import LatencyEstimate, LatencyPair
        from compressor.steps.narrow_layers import makes_layers_narrow, smallest_share
        from compressor.steps.rank_channels import rank_channels
        from compressor.steps.stored_results import stored_result

        records = Selection, PrunePlan, Freeze, ErrorCurves, ErrorCurve, LatencyEstimate, LatencyPair

        def choose(state: PruningState) -> Selection:
            def compute() -> Selection:
                ranking = rank_channels(self.criterion, self.target, state, context, self.images)
                return self._chosen(state, context, ranking)

            predicts = context.latency_probe is not None and not context.latency_probe.rounds
            what = f"{self} {self.target} {self.images} {bool(state.current_graph.mixtures)} {predicts}"
            return stored_result(context.checkpoints, what, state.model.module, compute, records)

        selected = self._select_any(state, context, choose)
        # For a latency target the device would measure once more.
        if not self.target.has_latency_target and makes_layers_narrow(selected, self.target):
            mixed = None if selected.current_graph.mixtures else state.with_normalized_channels()
            if mixed is not None:
                selected = max(selected, self._select(mixed, context, choose), key=smallest_share)
        return selected

    def _select_any(self, state: PruningState, context: Context, choose: Choose) -> PruningState:
        state = state.with_graph()
        try:
            return self._select(state, context, choose)
        except TargetNotReached:
            mixed = state.with_normalized_channels()
            if not state.is_smaller:
                groups = apply_freeze_rules((mixed or state).groups, self.target.rules)
                if all(group.frozen for group in groups):
                    raise nothing_to_prune(state.model.name, groups) from None
            if mixed is not None:
                return self._select(mixed, context, choose)
            raise

    def _select(self, state: PruningState, context: Context, choose: Choose) -> PruningState:
        selection = choose(state)
        for note in selection.notes:
            context.log.note(note)
        groups = tuple(replace(group, frozen=selection.frozen[group.name]) for group in state.groups)
        of_baseline = apply_freeze_rules(state.baseline.groups, self.target.rules) if state.is_smaller else groups
        return replace(
            state,
            baseline=replace(state.baseline, groups=of_baseline),
            groups=groups,
            plan=selection.plan,
            selections=state.selections + 1,
            errors=selection.errors or state.errors,
            latency=selection.latency,
        )

    def _chosen(self, state: PruningState, context: Context, ranking: Ranking) -> Selection:
        """Find the widths that meet the target, and the channels that are kept."""
        from compressor.budget.memory import memory_budgets
        from compressor.budget.removal_order import clamped_groups
        from compressor.budget.selection import select_channels

        graph, target, baseline = state.current_graph, self.target, state.baseline
        scores, notes = ranking.scores, list(ranking.notes)
        check_finite("channels", scores)
        if state.is_smaller:  # groups of which one channel is left are no groups any more: no rule names them
            target = replace(target, rules=rules_naming_layers(state.groups, target.rules))
        budgets = memory_budgets(target, graph, baseline.cost, baseline.graph)
        pick = partial(
            select_channels, state.groups, scores, target, graph.cost, baseline.cost,
            removed_before=state.removed_before(), errors=ranking.errors, config_steps=state.model.config_steps,
        )  # fmt: skip
        latency: LatencyEstimate | None = None
        if target.has_latency_target:
            (plan, groups), latency = self._meet_latency(state, context, target, pick, scores, budgets)
        else:
            plan, groups = pick(budgets)
            if plan.round_to != target.round_to:
                coarse = f"multiples of {target.round_to} are too coarse for the target"
                notes.append(f"{coarse}: widths are multiples of {plan.round_to}")
        if target.scope == "global" and (names := clamped_groups(scores, plan)):
            notes.append(f"no channel would have been left of {', '.join(names)}: the best of each is kept")
        plan, errors = ranking.improve(plan), ranking.errors
        if errors is not None:
            errors = replace(errors, removed={name: int((~kept).sum()) for name, kept in plan.kept.items()})
            if state.lost_blocks:  # answers are compared without these blocks
                errors = replace(errors, flips=None)
        return Selection(plan, {group.name: group.frozen for group in groups}, errors, latency, notes)

    def _meet_latency(
        self,
        state: PruningState,
        context: Context,
        target: PruningTarget,
        pick: Callable[..., Plan],
        scores: Mapping[str, FloatArray],
        budgets: Sequence[Budget],
    ) -> tuple[Plan, LatencyEstimate]:
        """Find widths that meet the target on the device. A resumed run keeps the widths and the time it had."""
        from compressor.budget.selection import plan_from_widths
        from compressor.steps.latency_probe import LatencyEstimate
        from compressor.steps.latency_search import search_widths

        def search() -> dict[str, Any]:
            assert context.latency_probe is not None, "recipes with a latency target name a device"
            module = state.model.module
            baseline = state.baseline.module if state.is_smaller else module
            plan, latency = search_widths(
                target, module, state.current_graph, pick, budgets,
                baseline=baseline, probe=context.latency_probe, emit=context.log,
            )  # fmt: skip
            widths = {name: int(kept_C.sum()) for name, kept_C in plan.kept.items()}
            return {"round_to": plan.round_to, "widths": widths, "latency": latency.to_json()}

        decision = context.decision(f"widths for the latency of selection {state.selections}", search)
        plan, groups = plan_from_widths(state.groups, scores, decision["widths"], target.rules)
        plan = replace(plan, round_to=decision["round_to"])
        return (plan, groups), LatencyEstimate.from_json(decision["latency"])
