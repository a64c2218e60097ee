"""Single weights: which are masked, round by round, and which channels they leave dead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.core import Certificate, Flow, LoadedModel, MaskWeights, PrunePlan, Saliency
from compressor.engine.cutting import check_finite, cuttable, remove
from compressor.engine.work import Surroundings, Work, example
from compressor.errors import ModelError, RecipeError, TargetNotReached
from compressor.graph.certificate import TOLERANCE, change
from compressor.graph.cost import count, macs_by_weight
from compressor.graph.couple import Structure
from compressor.graph.dead import dead_channels
from compressor.graph.layer_rules import layers_frozen_by
from compressor.graph.shrink import shrink, sliced
from compressor.sparsity.best import keep_best
from compressor.sparsity.layers import all_weights, masked
from compressor.training.flow import flows
from compressor.training.sensitivity import sensitivities

WEIGHTS = "masked-weights"
"""Kind of the certificate that every masked weight is what it was or zero."""


def mask_weights(step: MaskWeights, work: Work, around: Surroundings) -> Work:
    """The work with masks, and zeros where they are False.

    Raises TargetNotReached where the weights that cannot go are too many, and VerificationFailed where scores are not
    finite.
    """
    dense = _free(step, work)
    everything = {name: torch.ones_like(each, dtype=torch.bool) for name, each in dense.items()}
    masks: Mapping[str, Tensor] = {name: work.masks.get(name, each) for name, each in everything.items()}
    counts = _counts(step, work, dense, masks)
    saved: tuple[str, ...] = ()
    for number, keep in enumerate(counts):
        module = masked(work.model.module, masks)
        entries = _entries(step, module, dense, masks, work, around, number)
        found = keep_best(entries, keep, masks if step.nested else everything, guard=step.guard)
        masks, saved = found.masks, tuple(dict.fromkeys((*saved, *found.saved))) if step.guard else found.saved
        around.emit("progress", {"done": number + 1, "total": len(counts), "what": "rounds of masks"})
    if saved:
        _tell(saved, step.guard, around)
    module = masked(work.model.module, masks)
    values = all_weights(module)
    error = max(float((values[name] - dense[name] * mask).abs().max()) for name, mask in masks.items())
    certificate = Certificate(WEIGHTS, error, error, error == 0)
    return replace(
        work,
        model=replace(work.model, module=module, original=work.original),
        certificate=certificate.also(work.certificate),
        masks={**work.masks, **masks},
    )


def check_masks(step: MaskWeights, work: Work) -> None:
    """Raises what `mask_weights` would raise whatever the scores are: TargetNotReached, ModelError and RecipeError."""
    dense = _free(step, work)
    _counts(step, work, dense, {name: torch.ones_like(each, dtype=torch.bool) for name, each in dense.items()})


def remove_dead(work: Work, around: Surroundings) -> Work:
    """Without the channels that end dead and whose absence changes nothing; as it was where there are none."""
    work = cuttable(work)
    cut, before = work.cut, work.masks
    assert cut is not None, "cuttable comes before"
    plan = _dead(work.model, cut.structure)
    if not plan.kept:
        return work
    gone = sum(int((~kept).sum()) for kept in plan.kept.values())
    around.emit("note", {"text": f"{gone} channels of {len(plan.kept)} groups did nothing any more and were taken out"})
    removed = remove(replace(work, cut=replace(cut, plan=plan), silent=True))
    masks = sliced({name: {"mask": each} for name, each in before.items()}, cut.groups, plan)
    return replace(removed, masks={name: each["mask"] for name, each in masks.items()})


def _dead(model: LoadedModel, structure: Structure) -> PrunePlan:
    plan = dead_channels(model.module, structure.groups)

    def exact(part: PrunePlan) -> bool:
        slim = shrink(model.module, structure, part)
        return change(model.module, slim, *example(model, images=2)) <= TOLERANCE

    if not plan.kept or exact(plan):
        return plan
    return PrunePlan({name: kept for name, kept in plan.kept.items() if exact(PrunePlan({name: kept}))})


def _free(step: MaskWeights, work: Work) -> dict[str, Tensor]:
    """The weights that are compared: those that run, but for the layers that the recipe freezes."""
    module = work.model.module
    running = macs_by_weight(module, *example(work.model))
    found = {name: each for name, each in all_weights(module).items() if name in running}
    frozen = layers_frozen_by([name.rpartition(".")[0] for name in found], step.rules)
    free = {name: each for name, each in found.items() if name.rpartition(".")[0] not in frozen}
    if not free:
        words = f"all {len(found)} layers are frozen" if found else "no convolution or linear layer"
        raise ModelError("nothing to mask", work.model.name, words, "free some of them in prune.layers")
    return free


def _counts(step: MaskWeights, work: Work, free: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> list[int]:
    """How many of the free weights each round keeps."""
    whole = work.original.weights
    masked_before = sum(int((~mask).sum()) for name, mask in work.masks.items() if name not in free)
    now = count(work.model.module, *example(work.model)).weights
    fixed = now - masked_before - sum(each.numel() for each in free.values())
    most = sum(int(mask.sum()) for mask in masks.values()) if step.nested else sum(map(Tensor.numel, free.values()))
    counts = [min(most, math.floor(share * whole + 1e-6) - fixed) for share in step.keep]
    least = len(free) if step.guard else 1
    if min(counts) < least:
        found = f"{fixed + least:,} of {whole:,} weights stay at the least, asked for {step.keep[-1]:.4%}"
        raise TargetNotReached(
            "target not reachable", "prune.target.weights", found, "ask for more to remain, or free frozen layers"
        )
    return counts


def _entries(
    step: MaskWeights,
    module: nn.Module,
    dense: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    work: Work,
    around: Surroundings,
    number: int,
) -> dict[str, Tensor]:
    """A score for every entry, the lowest goes first. Every round looks at other batches."""
    criterion = step.criterion
    if isinstance(criterion, Flow):
        found = flows(module, criterion, example(work.model))
    elif isinstance(criterion, Saliency):
        if around.data is None:
            words = f"none, and {criterion.name} scores weights by training images"
            raise RecipeError("recipe", "data", words, "give --data PATH, or a data block")
        fixed, weights = (masks, {}) if step.nested else ({}, dense)
        found = sensitivities(module, criterion, around.data, around.seed, epoch=number, masks=fixed, weights=weights)
        found = found if criterion.signed else {name: each.abs() for name, each in found.items()}
    else:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(around.seed)  # for criteria that draw lots
            found = {name: criterion(each) for name, each in dense.items()}
    entries = {name: found[name] for name in dense}
    check_finite("weights", entries)
    return entries


def _tell(saved: tuple[str, ...], guard: bool, around: Surroundings) -> None:
    names = ", ".join(name.removesuffix(".weight") for name in saved)
    if guard:
        around.emit("note", {"text": f"no weight would have been left of {names}: the best of each is kept"})
    else:
        around.emit("warning", {"text": f"no weight is left of {names}"})
