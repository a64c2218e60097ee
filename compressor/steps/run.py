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
    ConstraintFactory,
    Data,
    EarlyStop,
    FinetuneSegment,
    JacobianIsometry,
    LoadedModel,
    MaskNM,
    MaskUnstructured,
    Orthogonalize,
    PermuteChannels,
    PrunedEntries,
    PrunePlan,
    Recalibrate,
    Reinitialize,
    RemoveChannels,
    RemoveDeadChannels,
    RewindWeights,
    SaveWeights,
    SelectChannels,
    Step,
    Train,
)
from compressor.data.validate import check_answers
from compressor.diagnostics.isometry import IMAGES, jacobian_isometry
from compressor.diagnostics.stable_lr import stable_learning_rate
from compressor.errors import VerificationFailed
from compressor.graph.cost import count_cost
from compressor.sparsity.sr_ste import refined
from compressor.steps.mask_weights import mask_weights, remove_dead
from compressor.steps.nm_sparsity import mask_nm, permute_for_nm, still_masked
from compressor.steps.prune_channels import remove_selected, select
from compressor.steps.rewind import rewind_weights, save_weights
from compressor.steps.state import Candidates, Context, PruningState, example_inputs
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import is_lossless_when_zeroed
from compressor.surgery.permutation import permute_optimizer_state
from compressor.surgery.removal import pruned_entries
from compressor.training.batchnorm_statistics import recalibrate_batchnorm
from compressor.training.checkpoint import TrainingCheckpoint
from compressor.training.constraints import PenaltyConstraint, ScalesOnly, fixed_masks
from compressor.training.evaluate import BATCH_SIZE, evaluate
from compressor.training.initialization import orthogonalize, reinitialize
from compressor.training.loop import TrainResult


def initial_state(model: LoadedModel, around: Context, *, trained: bool = True) -> PruningState:
    """Find what can be cut, and measure the dense model where there is data; `trained`: whether it should know it."""
    around.emit("stage", {"name": "analyse"})
    start = time.perf_counter()
    structure = analyze(model.module, *example_inputs(model), name=model.name)
    original = model.original or structure.cost.of(PrunePlan({}))
    cut = Candidates(structure, structure.groups)
    work = PruningState(model, model.module, original, model.kept, structure, structure.groups, cut=cut)
    if around.data is not None:
        check_answers(model.module, around.data)
    work = _measured(_timed(work, "analyse", start), "dense", around)
    if trained and not model.untrained:
        hint = "check model.input, data.mean and data.std, and the order of classes"
        _doubt("the dense model", work, "dense", hint, around)
    return work


def run_step(step: Step, work: PruningState, around: Context) -> PruningState:
    """The work after one step."""
    start = time.perf_counter()
    if isinstance(step, Train) and step.stage == RETRAINING and work.longer:
        step = _lasting(step, work.longer, around)
    around.emit("stage", {"name": str(step)})
    match step:
        case SelectChannels():
            done, stage = select(step, work, around), None
        case RemoveChannels():
            done, stage = remove_selected(work), "after surgery" if step.last else None
        case PermuteChannels():
            done, stage = _permute(step, work, around), None
        case MaskNM():
            done, stage = _mask(step, work), "after masking"
        case MaskUnstructured():
            done, stage = mask_weights(step, work, around), "after masking"
        case RemoveDeadChannels():
            done, stage = remove_dead(work, around), None
        case Orthogonalize():
            done, stage = _orthogonalise(step, work), "after orthogonalisation"
        case Reinitialize():
            done, stage = _reinitialise(step, work, around), None
        case SaveWeights():
            done, stage = save_weights(work), None
        case RewindWeights():
            done, stage = rewind_weights(work), None
        case FinetuneSegment():
            raise AssertionError("the recipe's training takes its place before anything is performed")
        case Recalibrate():
            done, stage = _recalibrate(step, work, around), "after recalibration"
        case Train():
            done, stage = _train(step, work, around), f"after {step.stage}" if step.measured else None
    done = _timed(replace(done, log=(*done.log, str(step))), str(step), start)
    done = _measured(done, stage, around) if stage else done
    if isinstance(step, Train) and stage and step.stage == RETRAINING:
        hint = f"{step.optimizer.key}={step.optimizer.lr:g} may be too large, the epochs too few, or the cut too deep"
        _doubt("the retrained model", done, stage, hint, around)
    return done


def _permute(step: PermuteChannels, work: PruningState, around: Context) -> PruningState:
    assert not work.masks, "Permute comes before Mask"
    done = permute_for_nm(work.model, step, *example_inputs(work.model, images=2), seed=around.seed, emit=around.emit)
    return replace(
        work,
        model=replace(work.model, module=done.module, kept=done.kept, original=work.original),
        certificate=done.certificate.also(work.certificate),
        momentum=permute_optimizer_state(work.momentum, done.groups, done.orders, work.model.module),
        sparse=done.outcome,
    )


def _mask(step: MaskNM, work: PruningState) -> PruningState:
    done = mask_nm(work.model, step, work.sparse)
    return replace(
        work,
        model=replace(work.model, module=done.module, original=work.original),
        certificate=done.certificate.also(work.certificate),
        masks=done.masks,
        sparse=done.outcome,
        regrow=done.regrow,
    )


def _recalibrate(step: Recalibrate, work: PruningState, around: Context) -> PruningState:
    assert around.data is not None, "Recalibrate needs data"
    module = copy.deepcopy(work.model.module)
    recalibrate_batchnorm(module, around.data.calibration_batches(256, images=step.images))
    return replace(work, model=replace(work.model, module=module))


def _orthogonalise(step: Orthogonalize, work: PruningState) -> PruningState:
    module = copy.deepcopy(work.model.module)
    orthogonalize(module, step.gain)
    return replace(work, model=replace(work.model, module=module), momentum={})


def _reinitialise(step: Reinitialize, work: PruningState, around: Context) -> PruningState:
    module = copy.deepcopy(work.model.module)
    reinitialize(module, around.seed)
    if work.plan is None:
        around.emit("note", {"text": f"weights were drawn anew by seed {around.seed}; dense is the model as given"})
    ratio = work.structure.cost.of(PrunePlan({})).macs / count_cost(module, *example_inputs(work.model)).macs
    return replace(work, model=replace(work.model, module=module), momentum={}, longer=work.longer + step.longer(ratio))


def _train(step: Train, work: PruningState, around: Context) -> PruningState:
    assert around.data is not None, "Train needs data"
    module = copy.deepcopy(work.model.module)
    number = len(work.log)  # of the step: each training has a checkpoint of its own, kept to the end of the run
    optimizer = step.optimizer
    checkpoint = TrainingCheckpoint(
        around.checkpoints / str(number), f"{around.identity} {number}", optimizer.lr, optimizer.key
    )
    silent = step.penalty is not None and step.penalty.zero_from is not None and _falls_silent(work, around)
    constraints: list[ConstraintFactory] = []
    if step.penalty:
        constraints.append(partial(PenaltyConstraint, penalty=step.penalty, leaving=_leaving(work)))
    if step.only == "scales":
        constraints.append(ScalesOnly)
    if work.masks and not work.regrow:
        constraints.append(partial(fixed_masks, masks=work.masks))
    if step.stage == RETRAINING and (hint := stable_learning_rate(module, around.data, step, around.seed)):
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


def _lasting(step: Train, longer: int, around: Context) -> Train:
    """The retraining, over more epochs or fewer."""
    if step.epochs + longer < 1:
        spent = f"earlier trainings took {-longer} epochs, as many as {step.stage} was to last or more"
        around.emit("warning", {"text": f"{spent}: it lasts one, and the whole longer than {step.epochs}"})
    return step.extended(longer)


def _ended(step: Train, stop: EarlyStop, trained: TrainResult) -> str:
    """When a training with a rule ended, and by what."""
    last, epochs = trained.records[-1], len(trained.records)
    values = [f"{last[key]:.3g}" for key in ("stop_value", "stop_limit") if key in last]
    told = f" ({' against '.join(values)})" if values else ""
    if trained.stopped:
        return f"{step.stage} ended after epoch {epochs}: {stop.name} was reached{told}"
    return f"{step.stage} ended after epoch {epochs}, its last: {stop.name} was not reached{told}"


def _leaving(work: PruningState) -> tuple[tuple[PrunedEntries, ...], ...]:
    """What the plan drops, group by group; nothing before there is a plan, and once it is done."""
    cut = work.cut
    if cut is None or cut.plan is None:
        return ()
    return tuple(
        pruned_entries((group,), cut.plan, work.model.module) for group in cut.groups if group.name in cut.plan.kept
    )


def _falls_silent(work: PruningState, around: Context) -> bool:
    cut = work.cut
    assert cut is not None, "what leaves is chosen before it is held at zero"
    assert cut.plan is not None, "what leaves is chosen before it is held at zero"
    silent = is_lossless_when_zeroed(work.model.module, cut.structure, cut.plan, *example_inputs(work.model, images=2))
    if not silent:
        found = "zero channels still matter, behind a sigmoid or in a norm that mixes channels"
        around.emit("warning", {"text": f"removal will not be lossless: {found}"})
    return silent


def _measured(work: PruningState, stage: str, around: Context) -> PruningState:
    """With the task's metric at this stage, which is reported and decides nothing."""
    if around.data is None or around.data.task is None:
        return work
    start, metric = time.perf_counter(), around.data.task.metric
    value = evaluate(work.model.module, around.data.val_batches(BATCH_SIZE), metric)
    around.emit("metric", {"stage": stage, "metric": metric.name, "unit": metric.unit, metric.name: value})
    gauges = {**work.isometry, **_gauged(stage, work, around.data)}
    done = replace(work, metric=metric, quality={**work.quality, stage: value}, isometry=gauges)
    return _timed(done, "evaluate", start)


def _doubt(what: str, work: PruningState, stage: str, todo: str, around: Context) -> None:
    """Warn of a classifier that does hardly better than guessing."""
    classes = around.data.num_classes if around.data is not None else None
    if around.data is not None and classes and work.quality[stage] < 130 / classes:
        found = f"{what} is near chance ({work.quality[stage]:.2f} %) on {around.data.name}"
        around.emit("warning", {"text": f"{found}: {todo}"})


def _gauged(stage: str, work: PruningState, data: Data) -> Mapping[str, JacobianIsometry]:
    """How well the network keeps lengths, for one whose answers are rows of numbers."""
    images = torch.cat(list(data.calibration_batches(IMAGES, images=IMAGES)))
    found = jacobian_isometry(work.model.module, images, work.original.macs)
    return {stage: found} if found else {}


def _timed(work: PruningState, stage: str, start: float) -> PruningState:
    spent = work.seconds.get(stage, 0.0) + time.perf_counter() - start
    return replace(work, seconds={**work.seconds, stage: spent})
