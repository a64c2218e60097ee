"""Channels chosen and taken out, in one round or in several: what is left is analysed anew before the next choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressor.budget.layer_rules import apply_freeze_rules, rules_naming_layers
from compressor.budget.memory import memory_budgets
from compressor.budget.selection import clamped_groups, plan_from_widths, select_channels
from compressor.core import (
    BatchNormGateCriterion,
    ChannelGroup,
    GradientCriterion,
    PrunePlan,
    PruningTarget,
    SelectChannels,
)
from compressor.criteria.batchnorm_gate import gate_scores
from compressor.criteria.channel_scores import channel_scores, channel_scores_from_entries, channel_scores_from_gates
from compressor.criteria.gradient import gradient_scores
from compressor.errors import ModelError, RecipeError, TargetNotReached, VerificationFailed
from compressor.graph.cost import count_cost
from compressor.steps.latency_search import widths_for_latency
from compressor.steps.state import Candidates, Context, PruningState, example_inputs
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import TOLERANCE, certify_removal, output_change
from compressor.surgery.removal import (
    compose_kept,
    plan_from_kept,
    relative_kept,
    remove_channels,
    removed_per_group,
    slice_optimizer_state,
)

if TYPE_CHECKING:
    from compressor.core import FloatArray


def select(step: SelectChannels, work: PruningState, around: Context) -> PruningState:
    """Channels whose removal leaves the rest as it was, if they are enough; if not, those that norms mix as well."""
    work = with_graph(work)
    try:
        return _chosen(step, work, around)
    except TargetNotReached:
        mixed = _mixing(work)
        if mixed is not None:
            return _chosen(step, mixed, around)
        assert work.cut is not None, "cuttable comes before"
        if work.plan is None and all(group.frozen for group in work.cut.structure.groups):
            raise _nothing_to_prune(work.model.name, work.cut.groups) from None
        raise


def with_graph(work: PruningState) -> PruningState:
    """With what can go from the model as it is now; it is analysed anew where channels went before."""
    if work.cut is not None:
        return work
    structure = analyze(work.model.module, *example_inputs(work.model), name=work.model.name)
    return replace(work, cut=Candidates(structure, structure.groups))


def _mixing(work: PruningState) -> PruningState | None:
    """With the channels that norms mix, too, in the model as it is now and as the run began; None where norms mix
    none."""
    inputs, name = example_inputs(work.model), work.model.name
    structure = analyze(work.model.module, *inputs, name=name, mixing=True)
    if not structure.mixtures:
        return None
    first = structure if work.plan is None else analyze(work.dense, *inputs, name=name, mixing=True)
    return replace(work, structure=first, groups=first.groups, cut=Candidates(structure, structure.groups))


def _chosen(step: SelectChannels, work: PruningState, around: Context) -> PruningState:
    cut = work.cut
    assert cut is not None, "cuttable comes before"
    number = sum(each.startswith("SelectChannels") for each in work.log)
    graded = _graded(step, work, cut, around, number)
    check_finite("channels", graded)
    selection, gone = step.selection, {}
    if work.plan is not None:  # layers of which one channel is left are no groups any more, and their rules are idle
        selection = replace(selection, rules=rules_naming_layers(cut.groups, selection.rules))
        gone = removed_per_group(cut.groups, work.groups, work.plan, relative_kept(work.began, work.model.kept))
    limits = memory_budgets(selection, cut.structure, work.original, work.structure)
    pick = partial(select_channels, cut.groups, graded, selection, cut.structure.cost, work.original, gone=gone)
    if not selection.timed:
        plan, groups = pick(limits)
    elif number < len(around.settled):  # found before this run was resumed
        plan, groups = plan_from_widths(cut.groups, graded, around.settled[number], selection.rules)
    else:
        assert around.stopwatch is not None, "a latency target needs a device"
        whole = work.model.module if work.plan is None else work.dense
        found = widths_for_latency(
            selection, work.model.module, cut.structure, pick, limits,
            whole=whole, stopwatch=around.stopwatch, emit=around.emit,
        )  # fmt: skip
        plan, groups = found.plan, found.groups
    _tell(selection, graded, plan, around)
    first = groups if work.plan is None else apply_freeze_rules(work.groups, step.selection.rules)
    return replace(work, groups=first, cut=replace(cut, plan=plan, groups=groups))


def _graded(
    step: SelectChannels, work: PruningState, cut: Candidates, around: Context, number: int
) -> Mapping[str, FloatArray]:
    """A score for every channel. Every choice looks at other batches."""
    module, criterion = work.model.module, step.criterion
    if not isinstance(criterion, BatchNormGateCriterion | GradientCriterion):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(around.seed)  # for criteria that draw lots
            return channel_scores(module, cut.groups, criterion)
    if around.data is None:
        problem = f"no data are given, but {criterion.name} scores channels with training images"
        raise RecipeError("recipe/data-required", "data", problem, "give --data PATH, or add a data block")
    if isinstance(criterion, BatchNormGateCriterion):
        return channel_scores_from_gates(
            cut.groups, gate_scores(module, criterion, around.data, around.seed, epoch=number)
        )
    writers = [slot.tensor for group in cut.groups for slot in group.writers()]
    entries = gradient_scores(module, criterion, around.data, around.seed, epoch=number, also=writers)
    graded = channel_scores_from_entries(cut.groups, entries, criterion.signed)
    idle = [name for name, scores_C in graded.items() if not scores_C.any()]
    if idle:
        mute = f"no gradient reaches {', '.join(idle)}: all channels there score 0 and go first"
        around.emit("warning", {"text": f"{mute}; a norm with scales of 0, as before any training, does that"})
    return graded


def check_finite(of: str, graded: Mapping[str, FloatArray] | Mapping[str, Tensor]) -> None:
    """Raises VerificationFailed where a score is no number: nothing can be ranked by it."""
    for name, each in graded.items():
        finite = torch.isfinite(torch.as_tensor(each))
        if not bool(finite.all()):
            problem = f"{int((~finite).sum())} of {finite.numel()} scores of {of} are not finite"
            raise VerificationFailed("scores/non-finite", name, problem, "check the model's weights and the data")


def _tell(selection: PruningTarget, graded: Mapping[str, FloatArray], plan: PrunePlan, around: Context) -> None:
    if not selection.timed and plan.round_to != selection.round_to:
        coarse = f"multiples of {selection.round_to} are too coarse for the target"
        around.emit("note", {"text": f"{coarse}: widths are multiples of {plan.round_to}"})
    if selection.scope == "global" and (names := clamped_groups(graded, plan)):
        around.emit(
            "note", {"text": f"no channel would have been left of {', '.join(names)}: the best of each is kept"}
        )


def _nothing_to_prune(name: str, groups: Sequence[ChannelGroup]) -> ModelError:
    if free := sum(group.frozen is None for group in groups):
        problem = f"the target removes nothing from its {free} prunable groups"
        return ModelError(
            "nothing-to-prune/target-removes-nothing", name, problem, "lower the target, or prune.round_to"
        )
    reasons = sorted({group.frozen for group in groups if group.frozen})
    problem = f"no channel can be removed ({'; '.join(reasons[:3]) or 'it has no prunable layers'})"
    return ModelError("nothing-to-prune/all-frozen", name, problem, "run compress inspect for the reason of each group")


def remove_selected(work: PruningState) -> PruningState:
    """Cut, then prove it. A cut that takes nothing is a failure, unless other rounds took something."""
    cut, dense = work.cut, work.model
    assert cut is not None, "Remove comes after Choose"
    assert cut.plan is not None, "Remove comes after Choose"
    plan = cut.plan
    if not plan.kept and work.plan is not None:
        return replace(work, cut=None)
    slim = remove_channels(dense.module, cut.structure, plan)
    certificate = certify_removal(dense.module, slim, cut.structure, plan, *example_inputs(dense, images=2))
    if not certificate.ok:
        problem = f"slim and masked dense outputs differ by {certificate.max_rel_error:.1e} of the largest"
        raise VerificationFailed(
            "certificate/outputs-differ",
            dense.name,
            problem,
            "freeze layers with prune.layers, and report this with the model's name",
        )
    cost = count_cost(slim, *example_inputs(dense))
    if cost.params >= sum(parameter.numel() for parameter in dense.module.parameters()):
        raise _nothing_to_prune(dense.name, cut.groups)
    expected = cut.structure.cost.of(plan)
    if cost != (replace(expected, macs=cost.macs) if cut.structure.data_dependent else expected):
        problem = f"the slim module has {cost}, but the plan has {expected}"
        raise VerificationFailed("cost/differs-from-plan", dense.name, problem, "report this with the model's name")
    if work.silent and (changed := output_change(dense.module, slim, *example_inputs(dense, images=2))) > TOLERANCE:
        problem = f"removing channels that are zero changed the outputs by {changed:.1e} of the largest"
        raise VerificationFailed(
            "lossless-removal/outputs-differ", dense.name, problem, "report this with the model's name"
        )
    kept = compose_kept(dense.kept, cut.groups, plan, slim)
    return replace(
        work,
        model=replace(dense, module=slim, kept=kept, original=work.original),
        plan=replace(plan_from_kept(work.groups, relative_kept(work.began, kept)), round_to=plan.round_to),
        cut=None,
        certificate=certificate.also(work.certificate),
        momentum=slice_optimizer_state(work.momentum, cut.groups, plan),
    )
