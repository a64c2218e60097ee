"""Estimates for a plan: expected latency, lower bound, retained weights, a preview of the accuracy."""

from __future__ import annotations

from torch import nn

from compressor.budget.greedy import retained_score
from compressor.core import Data, PrunePlan
from compressor.criteria.magnitude import l1
from compressor.data.tasks import labelled_task
from compressor.execution.copies import copy_module
from compressor.graph.dependency_graph import DependencyGraph
from compressor.report.plan_result import AccuracyPreview, ExpectedLatency, LatencyBottlenecks, LowerBound
from compressor.steps.latency_probe import LatencyEstimate
from compressor.steps.state import PruningState
from compressor.training.batchnorm_statistics import recalibrate_batchnorm
from compressor.training.evaluate import BATCH_SIZE, evaluate

BATCHES = 8  # enough to distinguish a broken model from one that works


def expected_latency(estimate: LatencyEstimate) -> ExpectedLatency:
    """Return the record of a plan's latency."""
    pair, (low, high) = estimate.pair, estimate.pair.interval
    return {
        "dense_ms": pair.dense,
        "slim_ms": pair.slim,
        "slim_interval_ms": [low, high],
        "ratio": pair.dense / pair.slim,
        "ratio_interval": [pair.dense / high, pair.dense / low],
        "measured": estimate.measured,
    }


def latency_bottlenecks(estimate: LatencyEstimate | None) -> LatencyBottlenecks | None:
    """Return what limits the speed-up, as the latency search reports it; None if there was no search."""
    if estimate is None or estimate.bottlenecks is None:
        return None
    shares = estimate.bottlenecks
    return {"fixed": shares["fixed"], "between": shares["between"], "least": shares["least"]}


def lower_bound(graph: DependencyGraph) -> LowerBound:
    """Return the shares of parameters and multiply-adds that remain when everything prunable is removed."""
    dense, smallest = graph.cost.of(PrunePlan({})), graph.cost.least(graph.groups)
    return {"params": smallest.params / dense.params, "macs": smallest.macs / dense.macs if dense.macs else 1.0}


def retained_l1(baseline: PruningState, state: PruningState) -> float:
    """Average the share of the L1 norm of its filters that each prunable layer keeps.

    Args:
        baseline: The state before the first step.
        state: The state after the last one.

    Returns:
        A share from 0 to 1.
    """
    groups, kept = state.baseline.graph.groups, state.removed.kept if state.removed else {}
    return retained_score(groups, l1.score_channels(baseline.model.module, groups), kept)


def accuracy_preview(baseline: PruningState, state: PruningState, data: Data) -> AccuracyPreview:
    """Measure dense and slim on a few batches, after estimating the slim model's BatchNorm statistics.

    The test set is not used. Without a held-out split these are training images, which flatters both models.

    Args:
        baseline: The state before the first step.
        state: The state after the last one.
        data: The data.

    Returns:
        The metric of both models.
    """
    metric = labelled_task(data, "a preview of the accuracy").metric
    split = "held-out" if data.has_holdout else "training"
    slim = copy_module(state.model.module)
    batches = data.calibration_batches(BATCH_SIZE, images=BATCHES * BATCH_SIZE)
    recalibrate_batchnorm(slim, batches, data.batch_dims)

    def measure(module: nn.Module) -> float:
        images = BATCHES * BATCH_SIZE
        choose = data.holdout_batches if data.has_holdout else data.sample_batches
        return evaluate(module, choose(BATCH_SIZE, images=images), metric, split)

    return {
        "metric": metric.name,
        "split": split,
        "dense": measure(baseline.model.module),
        "slim": measure(slim),
    }


def recommendation(latency: ExpectedLatency | None, macs_ratio: float, removes_channels: bool) -> str:
    """Say whether the plan is worth it.

    Args:
        latency: The expected latency, if there is a device.
        macs_ratio: Multiply-adds, dense / slim.
        removes_channels: Whether the plan removes any channel.

    Returns:
        A sentence.
    """
    if not removes_channels:
        return "no channel is removed, so that only a runtime that skips zeros can be faster"
    fewer = f"{macs_ratio:.2f}x fewer MACs"
    if latency is None:
        return f"not predicted without a device: {fewer}, but latency may shrink less"
    low, high = latency["ratio_interval"]
    source = "measured" if latency["measured"] else "predicted from the layers' times"
    speedup = f"{latency['ratio']:.2f}x [{low:.2f}, {high:.2f}] {source}, at {fewer}"
    if low <= 1 <= high:
        return f"no measurable speed-up: {speedup}"
    return f"yes: faster {speedup}" if low > 1 else f"no: slower {speedup}"
