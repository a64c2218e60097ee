"""Single weights: which are masked, round by round, and which channels they leave dead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.budget.layer_rules import frozen_layers
from compressor.core import Certificate, GradientCriterion, LoadedModel, MaskUnstructured, PrunePlan, SynapticFlow
from compressor.criteria.gradient import gradient_scores
from compressor.criteria.synaptic_flow import synaptic_flow_scores
from compressor.errors import ModelError, RecipeError, TargetNotReached
from compressor.graph.cost import count_cost, macs_by_weight
from compressor.graph.dependency_graph import DependencyGraph
from compressor.sparsity.masking import all_weights, apply_masks
from compressor.sparsity.topk_masks import topk_masks
from compressor.steps.prune_channels import check_finite, remove_selected, with_graph
from compressor.steps.state import Context, PruningState, example_inputs
from compressor.surgery.certificate import TOLERANCE, output_change
from compressor.surgery.dead_channels import dead_channels
from compressor.surgery.removal import remove_channels, slice_optimizer_state

MASKED_WEIGHTS = "masked-weights"
"""Kind of the certificate that every masked weight is what it was or zero."""


def mask_weights(step: MaskUnstructured, work: PruningState, around: Context) -> PruningState:
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
        module = apply_masks(work.model.module, masks)
        entries = _entries(step, module, dense, masks, work, around, number)
        found = topk_masks(entries, keep, masks if step.nested else everything, guard=step.guard)
        masks, saved = found.masks, tuple(dict.fromkeys((*saved, *found.saved))) if step.guard else found.saved
        around.emit("progress", {"done": number + 1, "total": len(counts), "what": "rounds of masks"})
    if saved:
        _tell(saved, step.guard, around)
    module = apply_masks(work.model.module, masks)
    values = all_weights(module)
    error = max(float((values[name] - dense[name] * mask).abs().max()) for name, mask in masks.items())
    certificate = Certificate(MASKED_WEIGHTS, error, error, error == 0)
    return replace(
        work,
        model=replace(work.model, module=module, original=work.original),
        certificate=certificate.also(work.certificate),
        masks={**work.masks, **masks},
    )


def check_mask_budget(step: MaskUnstructured, work: PruningState) -> None:
    """Raises what `mask_weights` would raise whatever the scores are: TargetNotReached, ModelError and RecipeError."""
    dense = _free(step, work)
    _counts(step, work, dense, {name: torch.ones_like(each, dtype=torch.bool) for name, each in dense.items()})


def remove_dead(work: PruningState, around: Context) -> PruningState:
    """Without the channels that end dead and whose absence changes nothing; as it was where there are none."""
    work = with_graph(work)
    cut, before = work.cut, work.masks
    assert cut is not None, "cuttable comes before"
    plan = _dead(work.model, cut.structure)
    if not plan.kept:
        return work
    gone = sum(int((~kept).sum()) for kept in plan.kept.values())
    around.emit("note", {"text": f"{gone} channels of {len(plan.kept)} groups did nothing any more and were taken out"})
    removed = remove_selected(replace(work, cut=replace(cut, plan=plan), silent=True))
    masks = slice_optimizer_state({name: {"mask": each} for name, each in before.items()}, cut.groups, plan)
    return replace(removed, masks={name: each["mask"] for name, each in masks.items()})


def _dead(model: LoadedModel, structure: DependencyGraph) -> PrunePlan:
    plan = dead_channels(model.module, structure.groups)

    def exact(part: PrunePlan) -> bool:
        slim = remove_channels(model.module, structure, part)
        return output_change(model.module, slim, *example_inputs(model, images=2)) <= TOLERANCE

    if not plan.kept or exact(plan):
        return plan
    return PrunePlan({name: kept for name, kept in plan.kept.items() if exact(PrunePlan({name: kept}))})


def _free(step: MaskUnstructured, work: PruningState) -> dict[str, Tensor]:
    """The weights that are compared: those that run, but for the layers that the recipe freezes."""
    module = work.model.module
    running = macs_by_weight(module, *example_inputs(work.model))
    found = {name: each for name, each in all_weights(module).items() if name in running}
    frozen = frozen_layers([name.rpartition(".")[0] for name in found], step.rules)
    free = {name: each for name, each in found.items() if name.rpartition(".")[0] not in frozen}
    if not free:
        problem = f"all {len(found)} layers are frozen" if found else "it has no convolution or linear layer"
        raise ModelError(
            "nothing-to-mask/all-frozen", work.model.name, problem, "unfreeze some of them in prune.layers"
        )
    return free


def _counts(
    step: MaskUnstructured, work: PruningState, free: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> list[int]:
    """How many of the free weights each round keeps."""
    whole = work.original.weights
    masked_before = sum(int((~mask).sum()) for name, mask in work.masks.items() if name not in free)
    now = count_cost(work.model.module, *example_inputs(work.model)).weights
    fixed = now - masked_before - sum(each.numel() for each in free.values())
    most = sum(int(mask.sum()) for mask in masks.values()) if step.nested else sum(map(Tensor.numel, free.values()))
    counts = [min(most, math.floor(share * whole + 1e-6) - fixed) for share in step.keep]
    least = len(free) if step.guard else 1
    if min(counts) < least:
        problem = f"at least {fixed + least:,} of {whole:,} weights remain; the target is {step.keep[-1]:.4%}"
        raise TargetNotReached(
            "target-not-reachable/too-few-weights",
            "prune.target.weights",
            problem,
            "raise the target, or unfreeze layers in prune.layers",
        )
    return counts


def _entries(
    step: MaskUnstructured,
    module: nn.Module,
    dense: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    work: PruningState,
    around: Context,
    number: int,
) -> dict[str, Tensor]:
    """A score for every entry, the lowest goes first. Every round looks at other batches."""
    criterion = step.criterion
    if isinstance(criterion, SynapticFlow):
        found = synaptic_flow_scores(module, criterion, example_inputs(work.model))
    elif isinstance(criterion, GradientCriterion):
        if around.data is None:
            problem = f"no data are given, but {criterion.name} scores weights with training images"
            raise RecipeError("recipe/data-required", "data", problem, "give --data PATH, or add a data block")
        fixed, weights = (masks, {}) if step.nested else ({}, dense)
        found = gradient_scores(module, criterion, around.data, around.seed, epoch=number, masks=fixed, weights=weights)
        found = found if criterion.signed else {name: each.abs() for name, each in found.items()}
    else:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(around.seed)  # for criteria that draw lots
            found = {name: criterion(each) for name, each in dense.items()}
    entries = {name: found[name] for name in dense}
    check_finite("weights", entries)
    return entries


def _tell(saved: tuple[str, ...], guard: bool, around: Context) -> None:
    names = ", ".join(name.removesuffix(".weight") for name in saved)
    if guard:
        around.emit("note", {"text": f"no weight would have been left of {names}: the best of each is kept"})
    else:
        around.emit("warning", {"text": f"no weight is left of {names}"})
