"""What channels are selected by: scores, and with scope error the predicted divergence of every width."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from compressor.agreement import classes_scored
from compressor.batches import batch_length, join_batches, samples_between
from compressor.budget.target import PruningTarget
from compressor.core import ErrorCurves, PrunePlan
from compressor.criteria.base import ChannelCriterion, ScoringContext
from compressor.criteria.obs import GroupOBS, magnitude_curves
from compressor.error_curves.curves import curves_of, energy_curves, scores_along
from compressor.error_curves.elimination import QuadraticReader, improve
from compressor.error_curves.readers import measure_readers
from compressor.error_curves.sensitivity import SingleCut, measure_sensitivities
from compressor.errors import DataError
from compressor.steps.calibration import BATCH_SIZE, calibration_arguments
from compressor.steps.context import Context
from compressor.steps.state import PruningState

if TYPE_CHECKING:
    from compressor.core import BoolArray, FloatArray

HELD_OUT = 0.2  # share of the samples that sensitivities are measured on
FEWEST = 10  # samples
JUDGING_WORK = 6e12
"""Multiply-adds of the passes that sensitivities are measured by; they limit the samples of a large network."""
FEWEST_JUDGED = 32  # samples, whatever a pass costs


def _unchanged(plan: PrunePlan) -> PrunePlan:
    return plan


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores by group; with scope error the curves, an exchange of channels that improves a plan, and notes."""

    scores: Mapping[str, FloatArray]
    errors: ErrorCurves | None = None
    improve: Callable[[PrunePlan], PrunePlan] = _unchanged
    notes: Sequence[str] = ()


def rank_channels(
    criterion: ChannelCriterion, target: PruningTarget, state: PruningState, context: Context, images: int
) -> Ranking:
    """Score the channels of a model.

    Args:
        criterion: Gives the order of channels within a group.
        target: Its scope says whether error curves are needed.
        state: The state with a graph.
        context: Data, seed and log.
        images: Samples that error curves are computed from.

    Returns:
        The ranking.

    Raises:
        DataError: There are too few samples to hold any out.
    """
    module, groups = state.model.module, state.groups

    def scores() -> Mapping[str, FloatArray]:
        scoring = ScoringContext(context.data, context.seed, state.selections, state.example_inputs(), context.log)
        return criterion.score_channels(module, groups, scoring)

    if target.scope != "error":
        return Ranking(scores())
    start, data = time.perf_counter(), context.training_data
    batches, dims = calibration_arguments(data, images), data.batch_dims
    count = sum(batch_length(inputs, dims) for inputs in batches)
    if count < FEWEST:
        problem = f"{count} samples, and error curves need {FEWEST}"
        raise DataError("data/too-few-samples", data.name, problem, "give more samples, or set prune.scope: local")
    held_out = _count_held_out(count, state)
    columns = join_batches(batches, dims)
    fitted, judged = (
        [samples_between(columns, at, min(at + BATCH_SIZE, stop), dims) for at in range(first, stop, BATCH_SIZE)]
        for first, stop in ((0, count - held_out), (count - held_out, count))
    )
    readers = measure_readers(module, groups, fitted, seed=context.seed, batch_dims=dims)
    by_obs = isinstance(criterion, GroupOBS)
    curves = curves_of(readers, groups, {} if by_obs else scores())
    curves |= energy_curves(module, groups, readers, fitted, dims)
    curves = magnitude_curves(module, groups) | curves

    classes, progress = classes_scored(state.model.spec, data), context.progress("groups")
    curves, cuts = measure_sensitivities(module, groups, readers, curves, judged, classes, dims, progress)
    noted: dict[str, list[str]] = defaultdict(list)
    for name, curve in curves.items():
        if curve.note:
            noted[curve.note].append(name)
    notes = [f"{', '.join(names)}: {note}" for note, names in sorted(noted.items())]
    forms = {name: [reader.form for reader in measured] for name, measured in readers.items() if measured}
    errors = ErrorCurves(curves, held_out, _flips(cuts), time.perf_counter() - start)
    exchange = partial(_improved, forms) if by_obs else _unchanged
    return Ranking({name: scores_along(curve) for name, curve in curves.items()}, errors, exchange, notes)


def _count_held_out(count: int, state: PruningState) -> int:
    """How many of the samples judge: a share of them, or as many as the work allows where that is less."""
    share = max(2, math.ceil(HELD_OUT * count))
    passes = sum(group.size > 1 for group in state.groups) + 1
    affordable = JUDGING_WORK // (state.baseline.cost.macs * passes + 1)
    return min(share, max(FEWEST_JUDGED, int(affordable)))


def _flips(cuts: list[SingleCut]) -> float | None:
    """Least-squares factor of the square root of the divergence that gives the share of changed answers."""
    pairs = [(cut.divergence**0.5, cut.changed) for cut in cuts if cut.changed is not None]
    total = sum(root * root for root, _ in pairs)
    return sum(root * changed for root, changed in pairs) / total if total > 0 else None


def _improved(forms: Mapping[str, list[QuadraticReader]], plan: PrunePlan) -> PrunePlan:
    """Exchange channels of every group as long as its error falls."""
    kept: dict[str, BoolArray] = {}
    for name, mask in plan.kept.items():
        if name in forms:
            mask = np.asarray(improve(forms[name], torch.from_numpy(mask)).numpy())
        kept[name] = mask
    return replace(plan, kept=kept)
