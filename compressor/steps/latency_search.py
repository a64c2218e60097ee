"""Widths for a latency target: predicted by a latency model, measured as a whole model, corrected, measured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from compressor.budget.greedy import Budget
from compressor.budget.latency_model import LatencyModel
from compressor.budget.target import PruningTarget
from compressor.core import ChannelGroup, EventSink, PrunePlan
from compressor.errors import TargetNotReached
from compressor.graph.dependency_graph import DependencyGraph
from compressor.steps.latency_probe import LatencyEstimate, LatencyPair, LatencyProbe, known_well, pooled
from compressor.surgery.removal import remove_channels

LOW, AIM, HIGH = 0.95, 0.97, 0.985  # utilization of the allowed time; HIGH leaves room for noise
MIN_DISTANCE = 0.05  # between two predictions, as a share: closer ones give a slope that is mostly noise
SHRINK = 0.999  # factor on the prediction of a plan that was too slow: the next plan must be predicted below it

Plan = tuple[PrunePlan, tuple[ChannelGroup, ...]]
"""a plan, and the groups including what the recipe froze"""


@dataclass(frozen=True, slots=True)
class MeasuredPlan:
    """A plan and its time. `utilization`: the time as a share of what the target allows."""

    plan: PrunePlan
    groups: tuple[ChannelGroup, ...]
    predicted: float
    pair: LatencyPair
    utilization: float


def allowed_ms(target: PruningTarget, dense_ms: float) -> float:
    """Compute the time that the tighter of the latency targets allows.

    Args:
        target: The target, with a share of the dense latency, a number of milliseconds, or both.
        dense_ms: Milliseconds of the dense model.

    Returns:
        Milliseconds.
    """
    by_share = [] if target.latency is None else [target.latency * dense_ms]
    by_number = [] if target.latency_ms is None else [target.latency_ms]
    return min(by_share + by_number)


def meet_latency(
    target: PruningTarget,
    choose: Callable[[float], Plan],
    model: LatencyModel,
    measure: Callable[[PrunePlan, Callable[[LatencyPair], bool]], LatencyPair],
    *,
    dense_ms: float,
    rounds: int,
    emit: EventSink,
) -> MeasuredPlan:
    """Find the plan whose measured time is nearest below what the target allows.

    Prediction and measurement are related by the line through the two measurements nearest to the aim, so that a
    factor and an overhead are both corrected. A plan is accepted when its time is between 95 and 98.5 % of the allowed
    time in two measurements, because other programs come and go; too slow and too fast are corrected alike. The search
    also ends when no other widths are nearer.

    Args:
        target: The latency target.
        choose: Budget in predicted milliseconds -> a plan within it.
        model: Predicts the milliseconds of a plan.
        measure: Measures a plan until a predicate says that its interval decides.
        dense_ms: Milliseconds of the dense model, in those of the predictions.
        rounds: Maximum number of measurements; 0 = predict only.
        emit: Receives a `latency` event for every plan.

    Returns:
        The plan and its time.

    Raises:
        TargetNotReached: No plan that was measured is fast enough.
    """
    most = model.predict(PrunePlan({}))
    measured: list[MeasuredPlan] = []
    points = [(most, most / allowed_ms(target, dense_ms))]
    infeasible, refusal = 0.0, None  # the largest budget that no plan meets, as predicted

    def is_accepted(pair: LatencyPair) -> bool:
        return LOW <= pair.slim / allowed_ms(target, pair.dense) <= HIGH

    def is_enough(pair: LatencyPair) -> bool:
        """Narrow, or surely outside the accepted range: then the next plan matters, not this one's exact time."""
        low, high = (end / allowed_ms(target, pair.dense) for end in pair.interval)
        return known_well(pair) or high < LOW or low > HIGH

    for _ in range(max(rounds, 1)):
        too_slow = [candidate.predicted * SHRINK for candidate in measured if candidate.utilization > HIGH]
        budget = min(next_budget(points), *too_slow, most)
        if budget <= infeasible:
            budget = (infeasible + min(predicted for predicted, _ in points)) / 2
        try:
            plan, groups = choose(budget)
        except TargetNotReached as error:
            infeasible, refusal = budget, error
            continue
        predicted = model.predict(plan)
        if any(abs(predicted - earlier.predicted) < 1e-6 * predicted for earlier in measured):
            break
        pair = measure(plan, is_enough) if rounds else LatencyPair(dense_ms, predicted, model.interval(predicted))
        if rounds and is_accepted(pair):
            pair = pooled(pair, measure(plan, is_enough))
        utilization = pair.slim / allowed_ms(target, pair.dense)
        measured.append(MeasuredPlan(plan, groups, predicted, pair, utilization))
        points.append((predicted, utilization))
        emit("latency", {
            "measured": rounds > 0, "predicted_ms": predicted, "slim_ms": pair.slim, "dense_ms": pair.dense,
            "interval_ms": list(pair.interval), "fill": utilization,
        })  # fmt: skip
        if is_accepted(pair):
            break
    if refusal is not None and not measured:
        raise refusal
    return _nearest(measured, target)


def next_budget(points: Sequence[tuple[float, float]]) -> float:
    """Predict the time at which the utilization is at the aim.

    The line passes through the point nearest to the aim. Its slope is that to the next nearest point that is not so
    close that noise decides the slope, and between a fifth and five times the proportional slope.

    Args:
        points: Pairs (predicted milliseconds, utilization) that were measured.

    Returns:
        Milliseconds.
    """
    (predicted, utilization), *others = sorted(points, key=lambda point: abs(point[1] - AIM))
    proportional = utilization / predicted
    slopes = [
        (other_utilization - utilization) / (other - predicted)
        for other, other_utilization in others
        if abs(other - predicted) > MIN_DISTANCE * predicted
    ]
    slope = min(max(slopes[0], proportional / 5), proportional * 5) if slopes else proportional
    return predicted + (AIM - utilization) / slope


def _nearest(measured: Sequence[MeasuredPlan], target: PruningTarget) -> MeasuredPlan:
    """The plan nearest to the aim of those that are fast enough."""
    fast_enough = [candidate for candidate in measured if candidate.utilization <= 1]
    if fast_enough:
        return min(fast_enough, key=lambda candidate: abs(candidate.utilization - AIM))
    pair = min(measured, key=lambda candidate: candidate.utilization).pair
    time = f"{pair.slim:.3g} ms, {pair.slim / pair.dense:.1%} of the dense model's {pair.dense:.3g} ms"
    where = "prune.target.latency_ms" if target.latency is None else "prune.target.latency"
    problem = f"the nearest measured is {time}, the target is {allowed_ms(target, pair.dense):.3g} ms"
    raise TargetNotReached(
        "target-not-reachable/latency", where, problem, "raise the target, or unfreeze layers (see inspect)"
    )


def describe_search(target: PruningTarget, best: MeasuredPlan, dense_ms: float) -> str:
    """Say what was required, predicted and measured, as shares of the dense model's time.

    Args:
        target: The latency target.
        best: The plan that was chosen.
        dense_ms: Milliseconds of the dense model that predictions are of.

    Returns:
        A sentence for the log.
    """
    low, high = (f"{end / best.pair.dense:.1%}" for end in best.pair.interval)
    required = allowed_ms(target, best.pair.dense) / best.pair.dense
    return (
        f"latency of the dense model's {best.pair.dense:.3g} ms: {required:.1%} required, "
        f"{best.predicted / dense_ms:.1%} predicted, {best.pair.slim / best.pair.dense:.1%} [{low}, {high}] measured"
    )


def search_widths(
    target: PruningTarget,
    module: nn.Module,
    graph: DependencyGraph,
    pick: Callable[..., Plan],
    budgets: Sequence[Budget],
    *,
    baseline: nn.Module,
    probe: LatencyProbe,
    emit: EventSink,
) -> tuple[PrunePlan, LatencyEstimate]:
    """Find the plan that meets a latency target on a device, which is held meanwhile.

    Args:
        target: The latency target.
        module: The model to prune.
        graph: Its graph.
        pick: Budgets, and the width multiples that the device prefers -> a plan for `module`.
        budgets: Budgets of the other targets.
        baseline: The model that shares are of: `module` itself unless channels were removed before.
        probe: The device.
        emit: Receives the events of the search.

    Returns:
        The plan and its latency.

    Raises:
        TargetNotReached: No plan is fast enough.
        DeviceUnavailable: The device cannot be reached.
    """
    with probe.open() as session:
        model = session.latency_model(graph, module)
        dense_ms = session.time(baseline)

        def choose(budget_ms: float) -> Plan:
            return pick((*budgets, Budget("latency", model.ms, budget_ms, dense_ms)), model.preferred_multiples)

        def _measure(plan: PrunePlan, is_enough: Callable[[LatencyPair], bool]) -> LatencyPair:
            return session.measure_pair(baseline, remove_channels(module, graph, plan), is_enough)

        best = meet_latency(target, choose, model, _measure, dense_ms=dense_ms, rounds=probe.rounds, emit=emit)
    if probe.rounds:
        emit("note", {"text": describe_search(target, best, dense_ms)})
    if probe.rounds and not known_well(best.pair):
        problem = f"the machine is too busy: the time of the pruned model is known to {best.pair.half_width:.1%} only"
        emit("warning", {"text": f"{problem}, and may miss the target"})
    estimate = LatencyEstimate(best.pair, probe.rounds > 0, model.bottlenecks(best.plan, best.groups))
    return best.plan, estimate
