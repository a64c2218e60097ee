"""Performs steps. The only place that knows what each kind of step does; methods only name them."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from compressor.core import (
    RETRAINING,
    Bind,
    Choose,
    Data,
    Isometry,
    Leaving,
    LoadedModel,
    Mask,
    Orthogonalise,
    Permute,
    PrunePlan,
    Recalibrate,
    Reinitialise,
    Remove,
    Saliency,
    Step,
    Stop,
    Train,
)
from compressor.errors import ModelError, TargetNotReached, VerificationFailed
from compressor.graph.analyse import analyse
from compressor.graph.certificate import TOLERANCE, certify, change, falls_silent
from compressor.graph.choose import choose, planned
from compressor.graph.cost import count
from compressor.graph.footprint import footprint_limits
from compressor.graph.reorder import momentum_reordered
from compressor.graph.score import scores, scores_of_entries
from compressor.graph.shrink import kept_after, leaving, shrink, sliced
from compressor.search import widths_for_latency
from compressor.sparsify import mask, permute, still_masked
from compressor.sparsity.held import held
from compressor.sparsity.straight_through import refined
from compressor.training.checkpoint import Checkpoint
from compressor.training.curvature import stable_rate
from compressor.training.evaluate import BATCH_SIZE, measure
from compressor.training.gauges import IMAGES, isometry
from compressor.training.initialise import orthogonalise, reinitialise
from compressor.training.loop import Trained
from compressor.training.penalise import Penalised
from compressor.training.recalibrate import recalibrate
from compressor.training.sensitivity import sensitivities
from compressor.work import Surroundings, Work, example

if TYPE_CHECKING:
    from compressor.core import FloatArray


def begin(model: LoadedModel, around: Surroundings) -> Work:
    """Find what can be cut, and measure the dense model where there is data."""
    around.emit("stage", {"name": "analyse"})
    start = time.perf_counter()
    structure = analyse(model.module, *example(model), name=model.name)
    original = model.original or structure.cost.of(PrunePlan({}))
    work = Work(model, model.module, original, structure, groups=structure.groups)
    work = _measured(_timed(work, "analyse", start), "dense", around)
    if around.data is not None and around.data.num_classes and work.quality["dense"] < 130 / around.data.num_classes:
        doubt = f"the dense model is near chance ({work.quality['dense']:.2f} %) on {around.data.name}"
        around.emit(
            "warning", {"text": f"{doubt}: check model.input, data.mean and data.std, and the order of classes"}
        )
    return work


def perform(step: Step, work: Work, around: Surroundings) -> Work:
    """The work after one step."""
    start = time.perf_counter()
    if isinstance(step, Train) and step.stage == RETRAINING and work.longer:
        step = _lasting(step, work.longer, around)
    around.emit("stage", {"name": str(step)})
    match step:
        case Choose():
            done, stage = _choose(step, work, around), None
        case Remove():
            done, stage = _remove(work), "after surgery"
        case Permute():
            done, stage = _permute(step, work, around), None
        case Mask():
            done, stage = _mask(step, work), "after masking"
        case Orthogonalise():
            done, stage = _orthogonalise(step, work), "after orthogonalisation"
        case Reinitialise():
            done, stage = _reinitialise(step, work, around), None
        case Recalibrate():
            done, stage = _recalibrate(step, work, around), "after recalibration"
        case Train():
            done, stage = _train(step, work, around), f"after {step.stage}"
    done = _timed(replace(done, log=(*done.log, str(step))), str(step), start)
    return _measured(done, stage, around) if stage else done


def _choose(step: Choose, work: Work, around: Surroundings) -> Work:
    """Channels whose removal leaves the rest as it was, if they are enough; if not, those that norms mix as well."""
    try:
        return _chosen(step, work, around)
    except TargetNotReached:
        module = work.model.module
        structure = analyse(module, *example(work.model), name=work.model.name, mixing=True)
        if not structure.mixtures:
            raise
        return _chosen(step, replace(work, structure=structure, groups=structure.groups), around)


def _graded(step: Choose, work: Work, around: Surroundings) -> Mapping[str, FloatArray]:
    """A score for every channel."""
    module, criterion = work.model.module, step.criterion
    if not isinstance(criterion, Saliency):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(around.seed)  # for criteria that draw lots
            return scores(module, work.groups, criterion)
    assert around.data is not None, f"{criterion.name} needs data"
    entries = sensitivities(module, criterion, around.data, around.seed)
    return scores_of_entries(work.groups, entries, criterion.signed)


def _chosen(step: Choose, work: Work, around: Surroundings) -> Work:
    graded = _graded(step, work, around)
    if step.selection.timed:
        return _chosen_by_time(step, work, graded, around)
    limits = footprint_limits(step.selection, work.structure, work.original)
    plan, groups = choose(work.groups, graded, step.selection, work.structure.cost, work.original, limits)
    if plan.round_to != step.selection.round_to:
        coarse = f"multiples of {step.selection.round_to} are too coarse for the target"
        around.emit("note", {"text": f"{coarse}: widths are multiples of {plan.round_to}"})
    return replace(work, plan=plan, groups=groups)


def _chosen_by_time(step: Choose, work: Work, graded: Mapping[str, FloatArray], around: Surroundings) -> Work:
    """Widths for a latency on the target device; those found before where this run is resumed."""
    assert around.stopwatch is not None, "a latency target needs a device"
    number = sum(each.startswith("Choose") for each in work.log)
    if number < len(around.settled):
        plan, groups = planned(work.groups, graded, around.settled[number], step.selection.rules)
    else:
        found = widths_for_latency(
            step.selection, work.model.module, work.structure, work.groups, graded, work.original,
            stopwatch=around.stopwatch, emit=around.emit,
        )  # fmt: skip
        plan, groups = found.plan, found.groups
    return replace(work, plan=plan, groups=groups)


def _remove(work: Work) -> Work:
    """Cut, then prove it. A cut that takes nothing is a failure: nobody asks for one."""
    assert work.plan is not None, "Remove comes after Choose"
    dense, plan = work.model, work.plan
    slim = shrink(dense.module, work.structure, plan)
    certificate = certify(dense.module, slim, work.structure, plan, *example(dense, images=2))
    if not certificate.ok:
        found = f"slim differs from masked dense by {certificate.max_rel_error:.1e} of the largest output"
        raise VerificationFailed("certificate", dense.name, found, "report this model; freeze layers with prune.layers")
    cost = count(slim, *example(dense))
    if cost.params >= sum(parameter.numel() for parameter in dense.module.parameters()):
        reasons = sorted({group.frozen for group in work.groups if group.frozen})
        found = f"no channel can be removed ({'; '.join(reasons[:3]) or 'no prunable layers'})"
        raise ModelError("nothing to prune", dense.name, found, "see what inspect says of each group")
    planned = work.structure.cost.of(plan)
    if cost != (replace(planned, macs=cost.macs) if work.structure.data_dependent else planned):
        found = f"{cost} counted on the slim module, {planned} planned"
        raise VerificationFailed("cost", dense.name, found, "report this model")
    if work.silent and (changed := change(dense.module, slim, *example(dense, images=2))) > TOLERANCE:
        found = f"taking out channels that are zero changed outputs by {changed:.1e} of the largest"
        raise VerificationFailed("lossless removal", dense.name, found, "report this model")
    kept = kept_after(dense.kept, work.groups, plan, slim)
    model = replace(dense, module=slim, kept=kept, original=work.original)
    momentum = sliced(work.momentum, work.groups, plan)
    return replace(work, model=model, certificate=certificate, momentum=momentum)


def _permute(step: Permute, work: Work, around: Surroundings) -> Work:
    assert not work.masks, "Permute comes before Mask"
    done = permute(work.model, step, *example(work.model, images=2), seed=around.seed, emit=around.emit)
    return replace(
        work,
        model=replace(work.model, module=done.module, kept=done.kept, original=work.original),
        certificate=done.certificate.also(work.certificate),
        momentum=momentum_reordered(work.momentum, done.groups, done.orders, work.model.module),
        sparse=done.outcome,
    )


def _mask(step: Mask, work: Work) -> Work:
    done = mask(work.model, step, work.sparse)
    return replace(
        work,
        model=replace(work.model, module=done.module, original=work.original),
        certificate=done.certificate.also(work.certificate),
        masks=done.masks,
        sparse=done.outcome,
        regrow=done.regrow,
    )


def _recalibrate(step: Recalibrate, work: Work, around: Surroundings) -> Work:
    assert around.data is not None, "Recalibrate needs data"
    module = copy.deepcopy(work.model.module)
    recalibrate(module, around.data.plain_batches(256, images=step.images))
    return replace(work, model=replace(work.model, module=module))


def _orthogonalise(step: Orthogonalise, work: Work) -> Work:
    module = copy.deepcopy(work.model.module)
    orthogonalise(module, step.gain)
    return replace(work, model=replace(work.model, module=module), momentum={})


def _reinitialise(step: Reinitialise, work: Work, around: Surroundings) -> Work:
    module = copy.deepcopy(work.model.module)
    reinitialise(module, around.seed)
    ratio = work.structure.cost.of(PrunePlan({})).macs / count(module, *example(work.model)).macs
    return replace(work, model=replace(work.model, module=module), momentum={}, longer=work.longer + step.longer(ratio))


def _train(step: Train, work: Work, around: Surroundings) -> Work:
    assert around.data is not None, "Train needs data"
    module = copy.deepcopy(work.model.module)
    number = len(work.log)  # of the step: each training has a checkpoint of its own, kept to the end of the run
    checkpoint = Checkpoint(around.checkpoints / str(number), f"{around.identity} {number}")
    silent = step.penalty is not None and step.penalty.zero_at is not None and _falls_silent(work, around)
    constraints: list[Bind] = []
    if step.penalty:
        constraints.append(partial(Penalised, penalty=step.penalty, leaving=_leaving(work)))
    if work.masks and not work.regrow:
        constraints.append(partial(held, masks=work.masks))
    if step.stage == RETRAINING and (hint := stable_rate(module, around.data, step, around.seed)):
        around.emit("stable_rate", asdict(hint))
    with refined(module, work.regrow) if work.regrow else nullcontext():
        trained = around.train(
            module,
            around.data,
            step,
            seed=around.seed,
            emit=around.emit,
            checkpoint=checkpoint,
            teacher=work.dense if step.distill else None,
            constraints=constraints,
            momentum=work.momentum,
        )
    if step.stop is not None:
        around.emit("note", {"text": _ended(step, step.stop, trained)})
    model = replace(work.model, module=module)
    masks = still_masked(module, work.masks, work.regrow)
    longer = work.longer - (len(trained.records) if step.counted else 0)
    done = replace(work, model=model, momentum=trained.momentum, masks=masks, regrow=None)
    return replace(done, silent=silent, longer=longer, trainings=(*work.trainings, trained.cost))


def _lasting(step: Train, longer: int, around: Surroundings) -> Train:
    """The retraining, over more epochs or fewer."""
    if step.epochs + longer < 1:
        spent = f"earlier trainings took {-longer} epochs, as many as {step.stage} was to last or more"
        around.emit("warning", {"text": f"{spent}: it lasts one, and the whole longer than {step.epochs}"})
    return step.extended(longer)


def _ended(step: Train, stop: Stop, trained: Trained) -> str:
    """When a training with a rule ended, and by what."""
    last, epochs = trained.records[-1], len(trained.records)
    values = [f"{last[key]:.3g}" for key in ("stop_value", "stop_limit") if key in last]
    told = f" ({' against '.join(values)})" if values else ""
    if trained.stopped:
        return f"{step.stage} ended after epoch {epochs}: {stop.name} was reached{told}"
    return f"{step.stage} ended after epoch {epochs}, its last: {stop.name} was not reached{told}"


def _leaving(work: Work) -> tuple[tuple[Leaving, ...], ...]:
    """What the plan drops, group by group; nothing before there is a plan, and once it is done."""
    plan, module = work.plan, work.model.module
    if plan is None or work.certificate is not None:
        return ()
    return tuple(leaving((group,), plan, module) for group in work.groups if group.name in plan.kept)


def _falls_silent(work: Work, around: Surroundings) -> bool:
    assert work.plan is not None, "what leaves is chosen before it is held at zero"
    silent = falls_silent(work.model.module, work.structure, work.plan, *example(work.model, images=2))
    if not silent:
        found = "zero channels still matter, behind a sigmoid or in a norm that mixes channels"
        around.emit("warning", {"text": f"removal will not be lossless: {found}"})
    return silent


def _measured(work: Work, stage: str, around: Surroundings) -> Work:
    """With the task's metric at this stage, which is reported and decides nothing."""
    if around.data is None:
        return work
    start, metric = time.perf_counter(), around.data.task.metric
    value = measure(work.model.module, around.data.val_batches(BATCH_SIZE), metric)
    around.emit("metric", {"stage": stage, "metric": metric.name, "unit": metric.unit, metric.name: value})
    gauges = {**work.isometry, **_gauged(stage, work, around.data)}
    done = replace(work, metric=metric, quality={**work.quality, stage: value}, isometry=gauges)
    return _timed(done, "evaluate", start)


def _gauged(stage: str, work: Work, data: Data) -> Mapping[str, Isometry]:
    """How well the network keeps lengths, for one whose answers are rows of numbers."""
    images = torch.cat(list(data.plain_batches(IMAGES, images=IMAGES)))
    found = isometry(work.model.module, images, work.original.macs)
    return {stage: found} if found else {}


def _timed(work: Work, stage: str, start: float) -> Work:
    spent = work.seconds.get(stage, 0.0) + time.perf_counter() - start
    return replace(work, seconds={**work.seconds, stage: spent})
