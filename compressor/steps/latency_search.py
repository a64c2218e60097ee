"""Widths for a latency: chosen by a cost surface, measured as a whole model, corrected, until the measurement holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from compressor.budget.greedy import Budget
from compressor.budget.latency_model import LatencyModel
from compressor.core import ChannelGroup, EventSink, PrunePlan, PruningTarget
from compressor.errors import TargetNotReached
from compressor.graph.dependency_graph import DependencyGraph
from compressor.surgery.removal import remove_channels

LOW, AIM, HIGH = 0.97, 0.984, 0.995  # measured time as a share of what is allowed; HIGH leaves room for noise
APART = 0.05
JUST_LESS = 0.999  # of the predicted time of a plan that was too slow: what the next may be predicted to take


@dataclass(frozen=True, slots=True)
class LatencyPair:
    """Median milliseconds of the dense and the slim model, and the interval of the slim one's."""

    dense: float
    slim: float
    interval: tuple[float, float]


class DeviceSession(Protocol):
    """A device at hand."""

    def surface(self, structure: DependencyGraph, dense: nn.Module) -> LatencyModel:
        """Times of the model's layers over their widths, calibrated by the whole model's."""

    def pair(self, dense: nn.Module, slim: nn.Module) -> LatencyPair:
        """Both measured in turn."""


class LatencyProbe(Protocol):
    """What a latency target is met against; `rounds`: whole models to measure at the most, 0 = only predict."""

    @property
    def rounds(self) -> int: ...

    def started(self) -> AbstractContextManager[DeviceSession]: ...


@dataclass(frozen=True, slots=True)
class OpenProbe:
    """A stopwatch whose device is held already, for more than one search."""

    clock: DeviceSession
    rounds: int

    @contextmanager
    def started(self) -> Iterator[DeviceSession]:
        yield self.clock


@dataclass(frozen=True, slots=True)
class Candidate:
    """One measured plan. `fill`: its time as a share of what the target allows."""

    plan: PrunePlan
    groups: tuple[ChannelGroup, ...]
    predicted: float
    pair: LatencyPair
    fill: float


def allowed(selection: PruningTarget, dense_ms: float) -> float:
    """Milliseconds that every latency target leaves."""
    limits = [] if selection.latency is None else [selection.latency * dense_ms]
    return min([*limits, *([] if selection.latency_ms is None else [selection.latency_ms])])


def meet_latency(
    selection: PruningTarget,
    choose: Callable[[float], tuple[PrunePlan, tuple[ChannelGroup, ...]]],
    surface: LatencyModel,
    measure: Callable[[PrunePlan], LatencyPair],
    *,
    dense_ms: float,
    rounds: int,
    emit: EventSink,
) -> Candidate:
    """The plan whose measured time is nearest below what `selection` allows, from at most `rounds` measurements.

    `choose` finds a plan for a budget of milliseconds as `surface` predicts them; `dense_ms` is what shares are of, as
    long as nothing is measured. Prediction and measurement are tied
    by the line through the two measurements nearest to the aim, so both a factor and an overhead are corrected. It
    ends when the measured median is between 97 and 99.5 % of what is allowed, or when the widths can't come nearer.

    Raises:
        TargetNotReached: no budget leads to a plan fast enough; the message says what came nearest.
    """
    whole = surface.predict(PrunePlan({}))
    found: list[Candidate] = []
    points = [(whole, whole / allowed(selection, dense_ms))]
    infeasible = 0.0  # the largest budget that no plan meets
    for _ in range(max(rounds, 1)):
        budget = min(next_budget(points), *(each.predicted * JUST_LESS for each in found if each.fill > HIGH), whole)
        if budget <= infeasible:
            budget = (infeasible + min(predicted for predicted, _ in points)) / 2
        try:
            plan, groups = choose(budget)
        except TargetNotReached:
            if not found:
                raise
            infeasible = budget
            continue
        predicted = surface.predict(plan)
        if any(abs(predicted - each.predicted) < 1e-6 * predicted for each in found):
            break
        pair = measure(plan) if rounds else LatencyPair(dense_ms, predicted, surface.interval(predicted))
        fill = pair.slim / allowed(selection, pair.dense)
        found.append(Candidate(plan, groups, predicted, pair, fill))
        points.append((predicted, fill))
        emit("latency", {
            "measured": rounds > 0, "predicted_ms": predicted, "slim_ms": pair.slim, "dense_ms": pair.dense,
            "interval_ms": list(pair.interval), "fill": fill,
        })  # fmt: skip
        if LOW <= fill <= HIGH:
            break
    return _nearest(found, selection)


def next_budget(points: Sequence[tuple[float, float]]) -> float:
    """The predicted time that should fill the target to the aim, of (predicted, fill) pairs that were measured.

    The line goes through the point nearest to the aim, with the slope to the next nearest that is not so close to it
    that noise decides the slope; never flatter or steeper than five times the proportional one.
    """
    (predicted, fill), *others = sorted(points, key=lambda point: abs(point[1] - AIM))
    proportional = fill / predicted
    slopes = [
        (other_fill - fill) / (other - predicted)
        for other, other_fill in others
        if abs(other - predicted) > APART * predicted
    ]
    slope = min(max(slopes[0], proportional / 5), proportional * 5) if slopes else proportional
    return predicted + (AIM - fill) / slope


def _nearest(found: Sequence[Candidate], selection: PruningTarget) -> Candidate:
    """Of those fast enough, the one nearest to the aim."""
    holds = [each for each in found if each.fill <= 1]
    if holds:
        return min(holds, key=lambda each: abs(each.fill - AIM))
    nearest = min(found, key=lambda each: each.fill)
    pair = nearest.pair
    left = f"{pair.slim:.3g} ms, {pair.slim / pair.dense:.1%} of the dense model's {pair.dense:.3g} ms"
    where = "prune.target.latency_ms" if selection.latency is None else "prune.target.latency"
    asked = f"the target is {allowed(selection, pair.dense):.3g} ms"
    hint = "raise the target, or unfreeze layers (see compress inspect)"
    raise TargetNotReached(
        "target-not-reachable/latency", where, f"the nearest measured latency is {left}; {asked}", hint
    )


def widths_for_latency(
    selection: PruningTarget,
    module: nn.Module,
    structure: DependencyGraph,
    pick: Callable[..., tuple[PrunePlan, tuple[ChannelGroup, ...]]],
    limits: Sequence[Budget],
    *,
    whole: nn.Module,
    stopwatch: LatencyProbe,
    emit: EventSink,
) -> Candidate:
    """The plan for what `selection` asks for, on the stopwatch's device, which is held meanwhile.

    `pick`: limits, and what the device rewards, to a plan for `module`. `whole`: the model that shares are of, `module`
    itself unless it lost channels before. Raises TargetNotReached, and what measuring raises.
    """
    with stopwatch.started() as clock:
        surface = clock.surface(structure, module)
        now = surface.predict(PrunePlan({}))
        dense_ms = now if whole is module else clock.pair(whole, module).dense

        def at(budget: float) -> tuple[PrunePlan, tuple[ChannelGroup, ...]]:
            return pick((*limits, Budget("latency", surface.ms, budget, dense_ms)), surface.rewarded)

        def measure(plan: PrunePlan) -> LatencyPair:
            return clock.pair(whole, remove_channels(module, structure, plan))

        found = meet_latency(selection, at, surface, measure, dense_ms=dense_ms, rounds=stopwatch.rounds, emit=emit)
    emit("bounds", surface.bounds(found.plan, found.groups))
    emit("widths", {"kept": {name: int(kept.sum()) for name, kept in found.plan.kept.items()}})
    return found
