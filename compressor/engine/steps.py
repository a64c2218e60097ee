"""Performs steps. The only place that knows what each kind of step does; methods only name them."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial

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
    MaskWeights,
    Orthogonalise,
    Permute,
    PrunePlan,
    Recalibrate,
    Reinitialise,
    Remember,
    Remove,
    RemoveDead,
    Retrain,
    Rewind,
    Step,
    Stop,
    Train,
)
from compressor.engine.cutting import choose_channels, remove
from compressor.engine.masking import mask_weights, remove_dead
from compressor.engine.rewinding import remember, rewind
from compressor.engine.sparsify import mask, permute, still_masked
from compressor.engine.work import Cut, Surroundings, Work, example
from compressor.errors import VerificationFailed
from compressor.graph.analyse import analyse
from compressor.graph.certificate import falls_silent
from compressor.graph.cost import count
from compressor.graph.reorder import momentum_reordered
from compressor.graph.shrink import leaving
from compressor.sparsity.held import held
from compressor.sparsity.straight_through import refined
from compressor.training.check import check_answers
from compressor.training.checkpoint import Checkpoint
from compressor.training.curvature import stable_rate
from compressor.training.evaluate import BATCH_SIZE, measure
from compressor.training.gauges import IMAGES, isometry
from compressor.training.initialise import orthogonalise, reinitialise
from compressor.training.loop import Trained
from compressor.training.partly import ScalesOnly
from compressor.training.penalise import Penalised
from compressor.training.recalibrate import recalibrate


def begin(model: LoadedModel, around: Surroundings, *, trained: bool = True) -> Work:
    """Find what can be cut, and measure the dense model where there is data; `trained`: whether it should know it."""
    around.emit("stage", {"name": "analyse"})
    start = time.perf_counter()
    structure = analyse(model.module, *example(model), name=model.name)
    original = model.original or structure.cost.of(PrunePlan({}))
    cut = Cut(structure, structure.groups)
    work = Work(model, model.module, original, model.kept, structure, structure.groups, cut=cut)
    if around.data is not None:
        check_answers(model.module, around.data)
    work = _measured(_timed(work, "analyse", start), "dense", around)
    if trained and not model.untrained:
        todo = "check model.input, data.mean and data.std, and the order of classes"
        _doubt("the dense model", work, "dense", todo, around)
    return work


def perform(step: Step, work: Work, around: Surroundings) -> Work:
    """The work after one step."""
    start = time.perf_counter()
    if isinstance(step, Train) and step.stage == RETRAINING and work.longer:
        step = _lasting(step, work.longer, around)
    around.emit("stage", {"name": str(step)})
    match step:
        case Choose():
            done, stage = choose_channels(step, work, around), None
        case Remove():
            done, stage = remove(work), "after surgery" if step.last else None
        case Permute():
            done, stage = _permute(step, work, around), None
        case Mask():
            done, stage = _mask(step, work), "after masking"
        case MaskWeights():
            done, stage = mask_weights(step, work, around), "after masking"
        case RemoveDead():
            done, stage = remove_dead(work, around), None
        case Orthogonalise():
            done, stage = _orthogonalise(step, work), "after orthogonalisation"
        case Reinitialise():
            done, stage = _reinitialise(step, work, around), None
        case Remember():
            done, stage = remember(work), None
        case Rewind():
            done, stage = rewind(work), None
        case Retrain():
            raise AssertionError("the recipe's training takes its place before anything is performed")
        case Recalibrate():
            done, stage = _recalibrate(step, work, around), "after recalibration"
        case Train():
            done, stage = _train(step, work, around), f"after {step.stage}" if step.measured else None
    done = _timed(replace(done, log=(*done.log, str(step))), str(step), start)
    done = _measured(done, stage, around) if stage else done
    if isinstance(step, Train) and stage and step.stage == RETRAINING:
        todo = f"{step.optimizer.key}={step.optimizer.lr:g} may be too large, the epochs too few, or the cut too deep"
        _doubt("the retrained model", done, stage, todo, around)
    return done


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
    if work.plan is None:
        around.emit("note", {"text": f"weights were drawn anew by seed {around.seed}; dense is the model as given"})
    ratio = work.structure.cost.of(PrunePlan({})).macs / count(module, *example(work.model)).macs
    return replace(work, model=replace(work.model, module=module), momentum={}, longer=work.longer + step.longer(ratio))


def _train(step: Train, work: Work, around: Surroundings) -> Work:
    assert around.data is not None, "Train needs data"
    module = copy.deepcopy(work.model.module)
    number = len(work.log)  # of the step: each training has a checkpoint of its own, kept to the end of the run
    optimizer = step.optimizer
    checkpoint = Checkpoint(
        around.checkpoints / str(number), f"{around.identity} {number}", optimizer.lr, optimizer.key
    )
    silent = step.penalty is not None and step.penalty.zero_at is not None and _falls_silent(work, around)
    constraints: list[Bind] = []
    if step.penalty:
        constraints.append(partial(Penalised, penalty=step.penalty, leaving=_leaving(work)))
    if step.only == "scales":
        constraints.append(ScalesOnly)
    if work.masks and not work.regrow:
        constraints.append(partial(held, masks=work.masks))
    if step.stage == RETRAINING and (hint := stable_rate(module, around.data, step, around.seed)):
        around.emit("stable_rate", asdict(hint))
    with refined(module, work.regrow) if work.regrow else nullcontext():
        try:
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
        except VerificationFailed:
            checkpoint.mark_diverged()
            raise
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
    cut = work.cut
    if cut is None or cut.plan is None:
        return ()
    return tuple(leaving((group,), cut.plan, work.model.module) for group in cut.groups if group.name in cut.plan.kept)


def _falls_silent(work: Work, around: Surroundings) -> bool:
    cut = work.cut
    assert cut is not None, "what leaves is chosen before it is held at zero"
    assert cut.plan is not None, "what leaves is chosen before it is held at zero"
    silent = falls_silent(work.model.module, cut.structure, cut.plan, *example(work.model, images=2))
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


def _doubt(what: str, work: Work, stage: str, todo: str, around: Surroundings) -> None:
    """Warn of a classifier that does hardly better than guessing."""
    classes = around.data.num_classes if around.data is not None else None
    if around.data is not None and classes and work.quality[stage] < 130 / classes:
        found = f"{what} is near chance ({work.quality[stage]:.2f} %) on {around.data.name}"
        around.emit("warning", {"text": f"{found}: {todo}"})


def _gauged(stage: str, work: Work, data: Data) -> Mapping[str, Isometry]:
    """How well the network keeps lengths, for one whose answers are rows of numbers."""
    images = torch.cat(list(data.plain_batches(IMAGES, images=IMAGES)))
    found = isometry(work.model.module, images, work.original.macs)
    return {stage: found} if found else {}


def _timed(work: Work, stage: str, start: float) -> Work:
    spent = work.seconds.get(stage, 0.0) + time.perf_counter() - start
    return replace(work, seconds={**work.seconds, stage: spent})
