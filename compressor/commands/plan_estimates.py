"""Will it pay? What a plan says beyond sizes: latency to expect, what stays at the least, what is kept of weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import islice

from torch import nn

from compressor.budget.greedy import retained_score
from compressor.core import Data, EventSink, PrunePlan
from compressor.criteria.channel_scores import channel_scores
from compressor.criteria.formulas import l1
from compressor.graph.dependency_graph import DependencyGraph
from compressor.report.plan_result import AccuracyPreview, ExpectedLatency, LatencyBottlenecks, LowerBound
from compressor.steps.latency_search import LatencyPair
from compressor.steps.state import PruningState
from compressor.training.batchnorm_statistics import recalibrate_batchnorm
from compressor.training.evaluate import BATCH_SIZE, evaluate

BATCHES = 8  # enough to tell a model that is broken from one that is not


def log_latency(pair: LatencyPair, emit: EventSink) -> None:
    """A measurement, as the search for a latency tells its own."""
    fields = {"slim_ms": pair.slim, "dense_ms": pair.dense, "interval_ms": list(pair.interval)}
    emit("latency", {"measured": True, **fields})


def expected_latency(events: Sequence[Mapping[str, object]]) -> ExpectedLatency | None:
    """The last latency that was told, None where there was no device to ask."""
    for event in reversed(events):
        match event:
            case {
                "event": "latency", "measured": bool(measured), "dense_ms": float(dense), "slim_ms": float(slim),
                "interval_ms": [float(low), float(high)],
            }:  # fmt: skip
                return {
                    "dense_ms": dense,
                    "slim_ms": slim,
                    "slim_interval_ms": [low, high],
                    "ratio": dense / slim,
                    "ratio_interval": [dense / high, dense / low],
                    "measured": measured,
                }
    return None


def latency_bottlenecks(events: Sequence[Mapping[str, object]]) -> LatencyBottlenecks | None:
    """What keeps the plan from being faster, None where no cost surface was asked."""
    for event in reversed(events):
        match event:
            case {"event": "bounds", "fixed": float(fixed), "between": float(between), "least": float(lower_bound)}:
                return {"fixed": fixed, "between": between, "least": lower_bound}
    return None


def lower_bound(structure: DependencyGraph) -> LowerBound:
    """Shares of parameters and multiply-adds that stay when all goes that can: what no target can get below."""
    whole, left = structure.cost.of(PrunePlan({})), structure.cost.least(structure.groups)
    return {"params": left.params / whole.params, "macs": left.macs / whole.macs if whole.macs else 1.0}


def retained_l1(start: PruningState, work: PruningState) -> float:
    """Share of the L1 norm of its filters that a layer keeps, mean over the layers that can be cut."""
    structure, kept = work.structure, work.plan.kept if work.plan else {}
    return retained_score(structure.groups, channel_scores(start.model.module, structure.groups, l1), kept)


def accuracy_preview(start: PruningState, work: PruningState, data: Data) -> AccuracyPreview:
    """The metric of dense and slim on a few batches, the slim model with BatchNorm statistics estimated anew; never on
    the test set. Without a held-out split they are training images, which flatters both alike."""
    slim = copy.deepcopy(work.model.module)
    recalibrate_batchnorm(slim, data.calibration_batches(BATCH_SIZE, images=BATCHES * BATCH_SIZE))

    def of(module: nn.Module) -> float:
        held_out = data.holdout_batches(BATCH_SIZE)
        batches = held_out if data.has_holdout else data.train_batches(BATCH_SIZE, epoch=0, seed=0)
        return evaluate(module, islice(batches, BATCHES), data.task.metric)

    return {
        "metric": data.task.metric.name,
        "split": "held-out" if data.has_holdout else "training",
        "dense": of(start.model.module),
        "slim": of(slim),
    }


def recommendation(latency: ExpectedLatency | None, macs_ratio: float, cut: bool) -> str:
    """In words; `cut`: whether channels go at all."""
    if not cut:
        return "no channel goes, so that only a runtime which skips zeros can gain"
    fewer = f"{macs_ratio:.2f}x fewer MACs"
    if latency is None:
        return f"not measured: MACs fall {macs_ratio:.2f}x, which need not show on a device"
    low, high = latency["ratio_interval"]
    how = "measured" if latency["measured"] else "predicted from the layers' times"
    if low <= 1 <= high:
        return f"no: no change that can be told, {latency['ratio']:.2f}x [{low:.2f}, {high:.2f}] {how}, at {fewer}"
    word = "yes: faster" if low > 1 else "no: slower"
    return f"{word} {latency['ratio']:.2f}x [{low:.2f}, {high:.2f}] {how}, at {fewer}"
